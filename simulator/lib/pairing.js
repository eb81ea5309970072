/**
 * Linking a device, on the phone's and its server's side: the QR references, the effect of a scan, the eight-letter
 * code.
 *
 * The phone signs the new device's identity with the account's key; the client counter-signs; then it must reconnect (515).
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, pbkdf2Sync, randomBytes } from 'node:crypto'
import { Curve, proto } from 'baileys'
import { makeSigningKey } from './curve.js'
import { ControlError } from './errors.js'
import { Gate } from './passkey.js'
import { bytesOf, child, node, SERVER } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./phone.js').Phone} Phone */

const REFS = 6
const ACCOUNT_SIGNATURE_PREFIX = Buffer.from([6, 0])
const CODE_ITERATIONS = 2 << 16
const FIRST_DEVICE = 11
const TOO_MANY = "couldn't link device: it has as many linked devices as it may have"

/** Gives an unregistered client its QR references. @param {Connection} connection */
export function offerQr(connection) {
  connection.refs = Array.from({ length: REFS }, () => `2@${randomBytes(36).toString('base64')}`)
  const refs = connection.refs.map((ref) => node('ref', {}, Buffer.from(ref)))
  connection.send(node('iq', { from: SERVER, type: 'set', id: randomBytes(8).toString('hex'), xmlns: 'md' }, [node('pair-device', {}, refs)]))
  connection.qrAt = performance.now()
  connection.phone.log.add('qr', { connection: connection.number, refs: REFS })
}

/**
 * The user points the phone at the QR.
 * @param {Phone} phone @param {{qr?: string, tamper?: string, timeout_ms?: number}} request
 */
export async function scan(phone, { qr, tamper, timeout_ms = 10_000 }) {
  const { connection, identity, advSecret, ref } = readQr(phone, qr)
  mayLink(phone, connection)
  if (expired(phone, connection, ref)) throw new ControlError(409, 'this QR has expired')
  if (connection.candidate?.identity.toString('base64') !== identity) throw new ControlError(400, 'the QR names another identity than the client registered')
  if (phone.faults.take('refresh_at_scan')) retireQr(phone, { qr })
  if (connection.retiredSecrets.has(advSecret)) throw new ControlError(409, 'the device could not be linked: its QR was retired')
  return linkOrGate(phone, connection, Buffer.from(advSecret, 'base64'), timeout_ms, tamper)
}

/**
 * The server retires the secret in the shown QR and tells the client to make another; scanning the old one fails.
 * @param {Phone} phone @param {{qr?: string}} request
 */
export function retireQr(phone, { qr }) {
  const { connection, advSecret } = readQr(phone, qr)
  connection.retiredSecrets.add(advSecret)
  connection.send(node('notification', { from: SERVER, type: 'companion_reg_refresh', id: randomBytes(8).toString('hex') }, [node('companion_reg_refresh')]))
}

/** Each reference has its time, one after the other. @param {Phone} phone @param {Connection} connection @param {string} ref */
function expired({ realism }, { refs, qrAt }, ref) {
  if (!realism.switches.qr_expires) return false
  return performance.now() > qrAt + realism.ms('first_ref_ms') + refs.indexOf(ref) * realism.ms('next_ref_ms')
}

/**
 * Cases that the phone refuses with "Couldn't link device", while the client hears nothing: a client that is too old,
 * or a restricted account (each try makes that worse).
 * @param {Phone} phone @param {Connection} connection
 */
function mayLink(phone, { version }) {
  const left = phone.restrictedUntil - Date.now()
  if (left > 0) {
    phone.restrictedUntil += left
    throw new ControlError(409, `couldn't link device: the account is restricted until ${new Date(phone.restrictedUntil).toISOString()}`)
  }
  const { min_version, max_devices } = phone.realism.switches
  if (max_devices && phone.lines.length >= max_devices) throw new ControlError(409, TOO_MANY)
  if (min_version && olderThan(version, min_version)) throw new ControlError(409, "couldn't link device")
}

/** @param {string} version @param {string} other - both of dotted numbers */
function olderThan(version, other) {
  const [a, b] = [version, other].map((text) => text.split('.').map(Number))
  const at = (b ?? []).findIndex((part, index) => part !== (a?.[index] ?? 0))
  return at >= 0 && (a?.[at] ?? 0) < (b?.[at] ?? 0)
}

/** @param {Phone} phone @param {string} [qr] */
function readQr(phone, qr = '') {
  const [ref = '', , identity = '', advSecret = ''] = qr.split('#').at(-1)?.split(',') ?? []
  const connection = [...phone.connections].find((one) => one.state === 'qr' && one.refs.includes(ref))
  if (!connection?.candidate) throw new ControlError(404, 'no client is showing this QR')
  return { connection, identity, advSecret, ref }
}

/** @param {Phone} phone @param {Connection} connection @param {Buffer} advSecret @param {number} timeoutMs @param {string} [tamper] @returns {Promise<object>} */
function linkOrGate(phone, connection, advSecret, timeoutMs, tamper) {
  connection.phone = phone
  if (!phone.realism.switches.passkey) return link(phone, connection, advSecret, timeoutMs, tamper)
  const gate = new Gate(connection, advSecret, phone.passkeyVariant, (secret) => link(phone, connection, secret, timeoutMs, tamper))
  connection.gate = phone.gate = gate
  gate.request()
  return Promise.resolve({ passkey: gate })
}

/**
 * Signs the device and tells the client; resolves when it has counter-signed.
 * @param {Phone} phone @param {Connection} connection @param {Buffer} advSecret @param {number} timeoutMs @param {string} [tamper]
 */
async function link(phone, connection, advSecret, timeoutMs, tamper) {
  const companion = /** @type {import('./companion.js').Companion} */ (connection.candidate)
  const { owner, world } = phone
  const generation = ++world.pairings
  companion.generation = generation
  companion.jid = owner.jid('pn', FIRST_DEVICE + generation)
  companion.lid = owner.jid('lid', FIRST_DEVICE + generation)
  const content = deviceIdentity(phone, companion, advSecret, tamper)
  connection.send(node('iq', { from: SERVER, type: 'set', id: randomBytes(8).toString('hex'), xmlns: 'md' }, [
    node('pair-success', {}, [
      node('device-identity', {}, content),
      ...(phone.business ? [node('biz', { name: owner.name })] : []),
      node('device', { jid: companion.jid, lid: companion.lid }),
      node('platform', { name: 'android' })
    ])
  ]))
  if (!(await phone.until(() => phone.lines.some((line) => line.companion === companion), timeoutMs))) throw new ControlError(504, 'the client did not counter-sign')
  return { jid: companion.jid, lid: companion.lid }
}

/** @param {Phone} phone @param {import('./companion.js').Companion} companion @param {Buffer} advSecret @param {string} [tamper] */
function deviceIdentity(phone, companion, advSecret, tamper) {
  const account = tamper === 'account_signature' ? makeSigningKey() : phone.owner.device().identity
  const details = proto.ADVDeviceIdentity.encode({ rawId: companion.generation, timestamp: Math.floor(Date.now() / 1000), keyIndex: companion.generation }).finish()
  const signed = Buffer.concat([ACCOUNT_SIGNATURE_PREFIX, details, companion.identity])
  const identity = proto.ADVSignedDeviceIdentity.encode({
    details, accountSignatureKey: phone.owner.device().identity.public, accountSignature: account.sign(signed)
  }).finish()
  const hmac = createHmac('sha256', tamper === 'hmac' ? randomBytes(32) : advSecret).update(identity).digest()
  return proto.ADVSignedDeviceIdentityHMAC.encode({ details: identity, hmac }).finish()
}

/** The client has counter-signed: it is linked, and must log in. @param {Connection} connection */
export function completePairing(connection) {
  const { phone, candidate } = connection
  if (!candidate?.jid) return
  phone.link(candidate)
  phone.log.add('paired', { connection: connection.number, jid: candidate.jid, lid: candidate.lid })
  connection.streamError(node('restart', {}), { code: '515' })
}

// --- by code ---------------------------------------------------------------------------------------------

/** The client's half of a pairing by code. @param {Connection} connection @param {import('./stanza.js').Node} request - link_code_companion_reg, companion_hello */
export function rememberCodeRequest(connection, request) {
  connection.codeRequest = {
    phone: request.attrs.jid?.split('@')[0] ?? '',
    wrapped: bytesOf(child(request, 'link_code_pairing_wrapped_companion_ephemeral_pub')),
    at: performance.now(), ref: randomBytes(16), shared: Buffer.alloc(0), bundle: Buffer.alloc(0), retired: false
  }
  const [platform, display] = ['companion_platform_id', 'companion_platform_display'].map((tag) => bytesOf(child(request, tag)).toString())
  connection.phone.log.add('code_requested', { connection: connection.number, phone: connection.codeRequest.phone, platform, display })
  return connection.codeRequest.ref
}

/**
 * The user types the code that the client shows.
 * @param {Phone} phone @param {{code?: string, timeout_ms?: number}} request
 */
export async function pairByCode(phone, { code = '', timeout_ms = 10_000 }) {
  const asking = [...phone.connections].filter((one) => one.codeRequest)
  const connection = asking.find((one) => one.codeRequest?.phone === phone.owner.phone) ?? asking[0]
  const request = connection?.codeRequest
  if (!connection || !request) throw new ControlError(409, 'no client has asked for a code')
  mayLink(phone, connection)
  const { realism } = phone
  if (realism.switches.code_expires && performance.now() > request.at + realism.ms('code_ms')) throw new ControlError(409, 'this code has expired')
  if (request.retired) throw new ControlError(409, 'this code was retired')
  if (request.phone !== phone.owner.phone) throw new ControlError(400, `the code is for ${request.phone}, this phone is ${phone.owner.phone}`)
  const clientKey = ctr(createDecipheriv, codeKey(code, request.wrapped.subarray(0, 32)), request.wrapped.subarray(32, 48), request.wrapped.subarray(48))
  const ephemeral = Curve.generateKeyPair()
  request.shared = Buffer.from(Curve.sharedKey(ephemeral.private, clientKey))
  request.bundle = Buffer.alloc(0) // drop that of a wrong code typed earlier
  const [salt, iv] = [randomBytes(32), randomBytes(16)]
  const wrapped = Buffer.concat([salt, iv, ctr(createCipheriv, codeKey(code, salt), iv, ephemeral.public)])
  connection.send(node('notification', { from: SERVER, type: 'link_code_companion_reg', id: randomBytes(8).toString('hex'), t: String(Math.floor(Date.now() / 1000)) }, [
    node('link_code_companion_reg', { stage: 'primary_hello' }, [
      node('link_code_pairing_wrapped_primary_ephemeral_pub', {}, wrapped),
      node('primary_identity_pub', {}, phone.owner.device().identity.public),
      node('link_code_pairing_ref', {}, request.ref)
    ])
  ]))
  if (!(await phone.until(() => request.bundle.length > 0, timeout_ms))) throw new ControlError(504, 'the client did not finish')
  return linkOrGate(phone, connection, openBundle(phone, connection), timeout_ms)
}

/** What the server accepts as `companion_platform_display`: a known browser on a known system. */
const DISPLAY = /^(Chrome|Edge|Firefox|IE|Opera|Safari) \((Windows|Mac OS|Mac|Linux|Ubuntu|Fedora|Android|iOS)\)$/

/** @param {import('./stanza.js').Node} request - companion_hello */
export function acceptedDisplay(request) {
  const id = bytesOf(child(request, 'companion_platform_id')).toString()
  return /^[1-9]$/.test(id) && DISPLAY.test(bytesOf(child(request, 'companion_platform_display')).toString())
}

/** The server wants the client to ask for another code; the one that is out links nothing any more. @param {Phone} phone @param {{force_manual_refresh?: boolean}} request */
export function refreshCode(phone, { force_manual_refresh = false }) {
  const connection = [...phone.connections].find((one) => one.codeRequest?.phone === phone.owner.phone)
  if (!connection?.codeRequest) throw new ControlError(409, 'no client has asked for a code')
  connection.codeRequest.retired = true
  const attrs = { stage: 'refresh_code', force_manual_refresh: force_manual_refresh ? 'true' : undefined }
  connection.send(node('notification', { from: SERVER, type: 'link_code_companion_reg', id: randomBytes(8).toString('hex'), t: String(Math.floor(Date.now() / 1000)) }, [
    node('link_code_companion_reg', attrs, [node('link_code_pairing_ref', {}, connection.codeRequest.ref)])
  ]))
  return {}
}

/** @param {string} code @param {Uint8Array} salt */
const codeKey = (code, salt) => pbkdf2Sync(code, salt, CODE_ITERATIONS, 32, 'sha256')

/** @param {typeof createCipheriv | typeof createDecipheriv} make @param {Uint8Array} key @param {Uint8Array} iv @param {Uint8Array} data */
function ctr(make, key, iv, data) {
  const cipher = make('aes-256-ctr', key, iv)
  return Buffer.concat([cipher.update(data), cipher.final()])
}

/** The client has sent its sealed key bundle. @param {Connection} connection @param {import('./stanza.js').Node} request */
export function rememberBundle({ phone, codeRequest }, request) {
  if (codeRequest) codeRequest.bundle = bytesOf(child(request, 'link_code_pairing_wrapped_key_bundle'))
  phone.changes.emit('change')
}

/** @param {import('node:crypto').DecipherGCM} decipher @param {Buffer} sealed @returns {Buffer | null} null: with another key */
function decrypted(decipher, sealed) {
  try {
    return Buffer.concat([decipher.update(sealed), decipher.final()])
  } catch {
    return null
  }
}

/** @param {Phone} phone @param {Connection} connection @returns {Buffer} the secret that both sides now share */
function openBundle(phone, { codeRequest, candidate }) {
  if (!codeRequest || !candidate) throw new ControlError(409, 'the client has gone')
  const { bundle, shared } = codeRequest
  const key = Buffer.from(hkdfSync('sha256', shared, bundle.subarray(0, 32), 'link_code_pairing_key_bundle_encryption_key', 32))
  const sealed = bundle.subarray(44)
  const decipher = createDecipheriv('aes-256-gcm', key, bundle.subarray(32, 44)).setAuthTag(sealed.subarray(-16))
  const plain = decrypted(decipher, sealed.subarray(0, -16))
  if (!plain) throw new ControlError(400, 'the code is wrong')
  const [identity, random] = [plain.subarray(0, 32), plain.subarray(64, 96)]
  if (!identity.equals(candidate.identity)) throw new ControlError(400, 'the bundle names another identity')
  const secret = Buffer.concat([shared, Curve.sharedKey(phone.owner.device().identity.private, identity), random])
  return Buffer.from(hkdfSync('sha256', secret, Buffer.alloc(0), 'adv_secret', 32))
}
