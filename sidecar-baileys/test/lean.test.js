/** What the sidecar loads of Baileys is, as far as anybody can tell, what Baileys loads by itself. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import * as real from 'whatsapp-rust-bridge'
import { BAILEYS_VERSION } from '../lib/baileys/internals.js'
import { leanTypes } from '../lib/baileys/lean.js'
import * as bridge from '../lib/baileys/rust_bridge.js'

const LEAN = new URL('../lib/baileys/lean.js', import.meta.url)
const SIDECAR = fileURLToPath(new URL('../index.js', import.meta.url))
const PROTOCOL_TYPES = fileURLToPath(new URL('../../node_modules/baileys/WAProto/index.js', import.meta.url))

/**
 * What a process of its own prints that loads Baileys: both ways use the same registry of types.
 * @param {boolean} lean @param {string} program @param {string} [version] that is said to be installed @returns {string}
 */
const printed = (lean, program, version) =>
  execFileSync(process.execPath, ['--input-type=module', '-e', `
    ${lean ? `import { loadLean } from '${LEAN}'; const loaded = loadLean(${version ? `'${version}'` : ''});` : 'const loaded = () => {};'}
    const baileys = await import('baileys'); loaded(); const { proto } = baileys; ${program}`,
  ], { cwd: fileURLToPath(new URL('..', import.meta.url)), encoding: 'utf8', maxBuffer: 1e8 })

/** Every type, its functions, fields, defaults and nested types. */
const EVERYTHING = `
  const tell = (value, path) => {
    if (typeof value !== 'object' && typeof value !== 'function') return console.log(path, String(value));
    if (typeof value === 'function') console.log(path, value.name, value.length);
    const proto = typeof value === 'function' ? value.prototype : undefined;
    if (proto) for (const name of Object.getOwnPropertyNames(proto)) {
      const { get, value: held } = Object.getOwnPropertyDescriptor(proto, name);
      console.log(path + '#' + name, get ? 'oneof' : typeof held === 'function' ? held.name : JSON.stringify(held));
    }
    for (const name of Object.keys(value)) tell(value[name], path + '.' + name);
  };
  tell(proto, 'proto');
`

const MESSAGE = `
  const message = { viewOnceMessage: { message: { imageMessage: { caption: 'a', fileLength: 5, contextInfo: { expiration: 7 } } } } };
  const bytes = proto.Message.encode(proto.Message.fromObject(message)).finish();
  console.log(Buffer.from(bytes).toString('hex'), JSON.stringify(proto.Message.decode(bytes)));
`

test('every type of the protocol is there, with the same functions, fields and defaults', () => {
  const stock = printed(false, EVERYTHING)
  assert.ok(stock.split('\n').length > 10_000)
  assert.equal(printed(true, EVERYTHING), stock)
})

test('a message is written and read the same', () => {
  assert.equal(printed(true, MESSAGE), printed(false, MESSAGE))
})

test('a type is made when it is first asked for, and can be replaced afterwards', () => {
  const made = printed(true, `
    const before = Object.getOwnPropertyDescriptor(proto, 'CertChain');
    proto.CertChain.decode = () => 'ours';
    const after = Object.getOwnPropertyDescriptor(proto, 'CertChain');
    proto.ADVKeyIndexList = 'all ours';
    console.log(typeof before.get, typeof after.get, proto.CertChain.decode(), proto.ADVKeyIndexList);`)
  assert.equal(made, 'function undefined ours all ours\n')
})

test('everything else that Baileys exports is there, but for the statistics', () => {
  const names = (/** @type {boolean} */ lean) => printed(lean, 'console.log(Object.keys(baileys).sort().join(" "))').trim().split(' ')
  const left = new Set(names(true))
  assert.deepEqual(names(false).filter((name) => !left.has(name)), [
    'BinaryInfo', 'FLAG_BYTE', 'FLAG_EVENT', 'FLAG_EXTENDED', 'FLAG_FIELD', 'FLAG_GLOBAL', 'WEB_EVENTS', 'WEB_GLOBALS', 'encodeWAM',
  ])
})

test('of another Baileys than the one that was read nothing is left out', () => {
  const tell = 'console.log(typeof baileys.encodeWAM, typeof Object.getOwnPropertyDescriptor(proto, "CertChain").get)'
  assert.equal(printed(true, tell, '7.0.0-rc99'), 'function undefined\n')
  assert.equal(printed(true, tell), 'undefined function\n')
})

test('a Baileys that cannot be loaded is named with its version and with what to do', () => {
  const hooks = `import { registerHooks } from 'node:module'; registerHooks({ load: (url, context, next) => url.endsWith('/baileys/lib/index.js')
    ? { format: 'module', source: "import { renamed } from 'node:fs'", shortCircuit: true } : next(url, context) })`
  const preload = `data:text/javascript,${encodeURIComponent(hooks)}`
  const { status, stderr } = spawnSync(process.execPath, ['--import', preload, SIDECAR], { input: '', encoding: 'utf8' })
  assert.equal(status, 1)
  assert.match(stderr, new RegExp(`Baileys ${BAILEYS_VERSION} cannot be loaded: .*renamed`))
  assert.match(stderr, /make setup.*Updating Baileys/)
})

test('types that are not those that were read are loaded as they are', () => {
  const source = readFileSync(PROTOCOL_TYPES, 'utf8')
  assert.notEqual(leanTypes(source), source)
  assert.equal(leanTypes(`${source} `), `${source} `)
})

test('the handshake derives the same keys', () => {
  for (const [length, salt, info] of /** @type {[number, Buffer | undefined, string | undefined][]} */ ([
    [64, randomBytes(32), ''], [64, Buffer.alloc(0), ''], [112, undefined, 'WhatsApp Image Keys'], [32, randomBytes(32), 'é'], [80, undefined, undefined],
  ])) {
    const key = randomBytes(32)
    assert.deepEqual(bridge.hkdf(key, length, { salt, info }), real.hkdf(key, length, { salt, info }))
  }
  assert.deepEqual(bridge.hkdf(new Uint8Array(), 64, { salt: randomBytes(0), info: '' }), real.hkdf(new Uint8Array(), 64, { info: '' }))
  assert.deepEqual(bridge.md5(Buffer.from('a')), real.md5(Buffer.from('a')))
})

test('the app state is read by the real module, once it is', () => {
  const key = randomBytes(32)
  assert.deepEqual(bridge.expandAppStateKeys(key).indexKey, real.expandAppStateKeys(key).indexKey)
  const [base, one, other] = [new Uint8Array(128), randomBytes(32), randomBytes(32)]
  const ours = new bridge.LTHashAntiTampering().subtractThenAdd(base, [one], [other])
  assert.deepEqual(ours, new real.LTHashAntiTampering().subtractThenAdd(base, [one], [other]))
})
