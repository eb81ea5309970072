/**
 * The server's certificate chain, checked as whatsmeow's `verifyServerCert` does it (docs/whatsapp.md, "The real server
 * in 2026"). Baileys checks the signatures and the root's serial; here the chain is also bound to this handshake.
 *
 * Baileys exposes neither the chain nor the server's static key. Its handshake is synchronous: it mixes in the static
 * key with `Curve.sharedKey`, and decodes the chain right after. We intercept both calls.
 */
import { Boom } from '@hapi/boom'
import { Curve, proto } from 'baileys'

const { CertChain } = proto
const { Details } = CertChain.NoiseCertificate
const KEY_BYTES = 32
/** How wrong this machine's clock may be, seconds. */
const SKEW_S = 24 * 3600

let strict = true
/** @type {Uint8Array} */
let peerKey = new Uint8Array()

/** `WA_STRICT_CERTS=false` switches the check off. @param {boolean} on for the next handshake and those after it */
export function checkChains(on) {
  strict = on
}

/**
 * @param {proto.ICertChain} chain
 * @param {Uint8Array} staticKey the server's, of this handshake
 * @param {number} now seconds
 * @returns {string | null} what is wrong
 */
export function faultOf(chain, staticKey, now) {
  const [intermediate, leaf] = [chain.intermediate, chain.leaf].map((one) => Details.decode(one?.details ?? new Uint8Array()))
  if (intermediate?.key?.length !== KEY_BYTES) return 'the intermediate has no key'
  if (leaf?.issuerSerial !== intermediate.serial) return 'the leaf names another issuer'
  if (!Buffer.from(leaf.key ?? []).equals(staticKey)) return 'the leaf is for another key than the handshake\'s'
  for (const { notBefore, notAfter } of [intermediate, leaf]) {
    if (now < Number(notBefore) - SKEW_S) return 'not valid yet'
    if (now > Number(notAfter) + SKEW_S) return 'expired'
  }
  return null
}

const sharedKey = Curve.sharedKey
Curve.sharedKey = (privateKey, publicKey) => {
  peerKey = publicKey
  return sharedKey(privateKey, publicKey)
}

const decode = CertChain.decode
CertChain.decode = (/** @type {any} */ bytes, /** @type {any[]} */ ...rest) => {
  const chain = /** @type {any} */ (decode)(bytes, ...rest)
  const fault = strict ? faultOf(chain, peerKey, Date.now() / 1000) : null
  if (fault) throw new Boom(`server certificate refused: ${fault}`, { statusCode: 400 })
  return chain
}
