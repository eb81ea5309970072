/**
 * The two chains that a client checks: the Noise chain (root → intermediate → this server's static key) and
 * the TLS chain of the media host (an authority of our own → a certificate for 127.0.0.1 and for the names of WhatsApp's servers).
 */
import 'reflect-metadata' // the X.509 library needs it loaded first
import { X509CertificateGenerator, BasicConstraintsExtension, KeyUsagesExtension, KeyUsageFlags, SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension, AuthorityKeyIdentifierExtension, ExtendedKeyUsageExtension, ExtendedKeyUsage } from '@peculiar/x509'
import { proto } from 'baileys'
import { makeSigningKey } from './curve.js'

const INTERMEDIATE_SERIAL = 1
const LEAF_SERIAL = 2
const VALID_MS = 30 * 24 * 3600 * 1000
const NAMES = ['localhost', 'web.whatsapp.com', '*.whatsapp.net']
const EC = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

/** Chains that a client must refuse; `replayed_chain` is a good one before another static key. */
export const CHAIN_FAULTS = ['replayed_chain', 'expired_chain', 'future_chain', 'foreign_leaf', 'wrong_serial']
const WEEK_S = 7 * 24 * 3600

/**
 * The chain that the Noise handshake sends, really signed.
 * @param {import('./curve.js').SigningKey} root - what the client trusts
 * @param {Uint8Array} staticKey - this server's Noise key
 * @param {string} [fault] - one of CHAIN_FAULTS
 */
export function makeNoiseChain(root, staticKey, fault) {
  const { Details } = proto.CertChain.NoiseCertificate
  const now = Math.floor(Date.now() / 1000)
  const shift = fault === 'expired_chain' ? -2 * WEEK_S - VALID_MS / 1000 : fault === 'future_chain' ? WEEK_S : 0
  const validity = { notBefore: now - 3600 + shift, notAfter: now + VALID_MS / 1000 + shift }
  const issuerSerial = fault === 'wrong_serial' ? INTERMEDIATE_SERIAL + 40 : INTERMEDIATE_SERIAL
  const intermediate = makeSigningKey()
  const intermediateDetails = Details.encode({ serial: INTERMEDIATE_SERIAL, issuerSerial: 0, key: intermediate.public, ...validity }).finish()
  const leafDetails = Details.encode({ serial: LEAF_SERIAL, issuerSerial, key: staticKey, ...validity }).finish()
  return proto.CertChain.encode({
    intermediate: { details: intermediateDetails, signature: root.sign(intermediateDetails) },
    leaf: { details: leafDetails, signature: (fault === 'foreign_leaf' ? makeSigningKey() : intermediate).sign(leafDetails) }
  }).finish()
}

/** @returns {Promise<{ca: string, cert: string, key: string}>} PEM texts; strict checkers (Python 3.13) accept them */
export async function makeTlsIdentity() {
  const validity = { notBefore: new Date(Date.now() - 3600_000), notAfter: new Date(Date.now() + VALID_MS) }
  const authorityKeys = await crypto.subtle.generateKey(EC, true, ['sign', 'verify'])
  const hostKeys = await crypto.subtle.generateKey(EC, true, ['sign', 'verify'])
  const ca = await X509CertificateGenerator.createSelfSigned({
    serialNumber: '01', name: 'CN=wa-worker virtual phone', ...validity, signingAlgorithm: EC, keys: authorityKeys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(authorityKeys.publicKey),
      await AuthorityKeyIdentifierExtension.create(authorityKeys.publicKey)
    ]
  })
  const host = await X509CertificateGenerator.create({
    serialNumber: '02', subject: 'CN=127.0.0.1', issuer: ca.subject, ...validity, signingAlgorithm: EC,
    publicKey: hostKeys.publicKey, signingKey: authorityKeys.privateKey,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension([{ type: 'ip', value: '127.0.0.1' }, ...NAMES.map((value) => ({ type: /** @type {const} */ ('dns'), value }))]),
      await SubjectKeyIdentifierExtension.create(hostKeys.publicKey),
      await AuthorityKeyIdentifierExtension.create(authorityKeys.publicKey)
    ]
  })
  const pkcs8 = Buffer.from(await crypto.subtle.exportKey('pkcs8', hostKeys.privateKey)).toString('base64')
  const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8.replace(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`
  return { ca: `${ca.toString('pem')}\n`, cert: `${host.toString('pem')}\n`, key }
}
