/**
 * Stock Baileys, without what a receiver never uses in memory (docs/scaling.md, "Memory of an account").
 *
 * Module hooks, active while Baileys loads: message types are created on first use, the statistics that WhatsApp Web
 * sends are left out, and the WebAssembly module is loaded only if the app state is read. Baileys' files are never
 * edited. Another version of Baileys, or a file other than the one we read, is loaded unchanged.
 */
import { createHash } from 'node:crypto'
import * as nodeModule from 'node:module'
import { BAILEYS_VERSION, installedVersion, PROTOCOL_TYPES_SHA256 } from './internals.js'

const PROTOCOL_TYPES = '/baileys/WAProto/index.js'
const STATISTICS = '/baileys/lib/WAM/index.js'
const BRIDGE = 'whatsapp-rust-bridge'
/** What Baileys takes from it instead. */
const OUR_BRIDGE = new URL('./rust_bridge.js', import.meta.url).href

/** Creates a type on first use; from then on it is a property like any other. */
const LAZY = `
const $lazy = (owner, name, make) => {
  const put = (value) => Object.defineProperty(owner, name, { value, writable: true, enumerable: true, configurable: true });
  Object.defineProperty(owner, name, {
    get() { const value = make(); put(value); return value; }, set: put, enumerable: true, configurable: true,
  });
};
`
const BEGINS = /^( *)([A-Za-z0-9_$]+)\.([A-Za-z0-9_$]+) = \(function\(\) \{$/
const ENDS = /^( *)\}\)\(\);$/

/**
 * The generated protobuf module with every type behind `$lazy`, and without its indentation, a third of its length.
 * Lines keep their numbers.
 * @param {string} source
 */
function lazyTypes(source) {
  /** The indentation of each type that is open. @type {string[]} */
  const open = []
  const lines = source.split('\n').map((line) => {
    const begin = BEGINS.exec(line)
    if (begin) {
      open.push(begin[1])
      return `$lazy(${begin[2]}, '${begin[3]}', function() {`
    }
    if (open.length > 0 && ENDS.exec(line)?.[1] === open.at(-1)) {
      open.pop()
      return '});'
    }
    return line.trimStart()
  })
  return LAZY.replaceAll('\n', ' ') + lines.join('\n')
}

/** @param {string} source of the generated protobuf module, as it is installed */
export function leanTypes(source) {
  const known = createHash('sha256').update(source).digest('hex') === PROTOCOL_TYPES_SHA256
  return known ? lazyTypes(source) : source
}

/**
 * Active until the returned function is called.
 * @param {string} [version] of the Baileys that is installed
 * @returns {() => void}
 */
export function loadLean(version = installedVersion()) {
  // Another version may need what this leaves out; `checkPackages` then says what is missing.
  if (version !== BAILEYS_VERSION) return () => {}
  // Node 22.15 has it; the import is a namespace, so that an older Node loads Baileys whole.
  if (!('registerHooks' in nodeModule)) return () => {}
  const hooks = nodeModule.registerHooks({
    resolve: (specifier, context, next) =>
      specifier === BRIDGE && context.parentURL !== OUR_BRIDGE
        ? { url: OUR_BRIDGE, format: 'module', shortCircuit: true }
        : next(specifier, context),
    load: (url, context, next) => {
      if (url.endsWith(STATISTICS)) return { format: 'module', source: '', shortCircuit: true }
      const loaded = next(url, context)
      if (!url.endsWith(PROTOCOL_TYPES)) return loaded
      return { ...loaded, source: leanTypes(Buffer.from(/** @type {Uint8Array} */ (loaded.source)).toString()) }
    },
  })
  return () => hooks.deregister()
}
