/**
 * The app state of one account: contacts and settings that its phone shares with the linked devices, in collections. The server
 * keeps them as it gets them: numbered patches of encrypted mutations, whose hashes a device checks (WhatsApp's "syncd").
 */
import { createCipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { makeLtHashGenerator, newLTHashState, proto } from 'baileys'
import { ControlError } from './errors.js'
import { encryptMedia } from './media-crypto.js'
import { node } from './stanza.js'

/** @typedef {{index: string[], value: proto.ISyncActionValue}} Entry */
/** @typedef {{version: number, bytes: Uint8Array}} Patch */
/** @typedef {{state: ReturnType<typeof newLTHashState>, patches: Patch[], records: Map<string, proto.ISyncdRecord>, snapshot: boolean}} Collection */

const NAMES = ['critical_block', 'critical_unblock_low', 'regular_high', 'regular_low', 'regular']
const { SET } = proto.SyncdMutation.SyncdOperation
const PATCHES_AT_ONCE = 10
const ACTION_VERSION = 2

export class AppState {
  /** what a device needs to read the collections @type {proto.Message.IAppStateSyncKey} */
  key = {
    keyId: { keyId: Buffer.from([0, 1, ...randomBytes(4)]) },
    keyData: { keyData: randomBytes(32), fingerprint: { rawId: 1, currentIndex: 1, deviceIndexes: [0, 1] }, timestamp: Date.now() }
  }
  /** @type {Map<string, Collection>} */
  collections = new Map()

  /** The key's five parts. */
  get #keys() {
    const all = Buffer.from(hkdfSync('sha256', this.key.keyData?.keyData ?? Buffer.alloc(0), Buffer.alloc(0), 'WhatsApp Mutation Keys', 160))
    const [index, cipher, value, snapshot, patch] = [0, 32, 64, 96, 128].map((at) => all.subarray(at, at + 32))
    return /** @type {Record<'index' | 'cipher' | 'value' | 'snapshot' | 'patch', Buffer>} */ ({ index, cipher, value, snapshot, patch })
  }

  /** @param {string} name */
  collection(name) {
    if (!NAMES.includes(name)) throw new ControlError(400, `no collection ${name}; there are ${NAMES.join(', ')}`)
    let found = this.collections.get(name)
    if (!found) this.collections.set(name, (found = { state: newLTHashState(), patches: [], records: new Map(), snapshot: false }))
    return found
  }

  /** The phone writes entries: one patch. @param {string} name @param {Entry[]} entries @returns {number} the collection's new version */
  write(name, entries) {
    const collection = this.collection(name)
    const keys = this.#keys
    const generator = makeLtHashGenerator(collection.state)
    const mutations = entries.map((entry) => this.#seal(entry, keys))
    for (const { indexMac, valueMac, record } of mutations) {
      generator.mix({ indexMac, valueMac, operation: SET })
      collection.records.set(indexMac.toString('base64'), record)
    }
    const version = collection.state.version + 1
    collection.state = { ...generator.finish(), version }
    const snapshotMac = this.#snapshotMac(name, collection)
    const patchMac = hmac(keys.patch, snapshotMac, ...mutations.map(({ valueMac }) => valueMac), number(version), Buffer.from(name))
    const content = mutations.map(({ record }) => ({ operation: SET, record }))
    const bytes = proto.SyncdPatch.encode({ version: { version }, mutations: content, snapshotMac, patchMac, keyId: this.#keyId }).finish()
    collection.patches.push({ version, bytes })
    return version
  }

  /**
   * What the server answers to a device that has this version.
   * @param {import('./media-host.js').MediaHost} media @param {string} name @param {number} version @param {boolean} wantsSnapshot
   */
  answer(media, name, version, wantsSnapshot) {
    const collection = this.collection(name)
    const whole = wantsSnapshot && collection.snapshot && collection.records.size > 0
    const newer = whole ? [] : collection.patches.filter((patch) => patch.version > version)
    const patches = newer.slice(0, PATCHES_AT_ONCE)
    const attrs = { name, version: String(patches.at(-1)?.version ?? collection.state.version), has_more_patches: String(newer.length > patches.length) }
    return node('collection', attrs, [
      ...(whole ? [node('snapshot', {}, this.#snapshot(media, name))] : []),
      ...(patches.length ? [node('patches', {}, patches.map(({ bytes }) => node('patch', {}, bytes)))] : [])
    ])
  }

  describe() {
    return [...this.collections].map(([name, { state, records, patches }]) => ({ name, version: state.version, entries: records.size, patches: patches.length }))
  }

  get #keyId() {
    return { id: this.key.keyId?.keyId }
  }

  /** A collection as one piece. @param {string} name */
  wholeOf(name) {
    const collection = this.collection(name)
    const { state: { version }, records } = collection
    return proto.SyncdSnapshot.fromObject({ version: { version }, records: [...records.values()], mac: this.#snapshotMac(name, collection), keyId: this.#keyId })
  }

  /** The same as a file. @param {import('./media-host.js').MediaHost} media @param {string} name */
  #snapshot(media, name) {
    const plain = proto.SyncdSnapshot.encode(this.wholeOf(name)).finish()
    const { blob, mediaKey, fileSha256, fileEncSha256, fileLength } = encryptMedia(Buffer.from(plain), 'app_state')
    return proto.ExternalBlobReference.encode({ mediaKey, fileSha256, fileEncSha256, fileSizeBytes: fileLength, directPath: media.put(blob, () => blob) }).finish()
  }

  /** @param {string} name @param {Collection} collection */
  #snapshotMac(name, { state }) {
    return hmac(this.#keys.snapshot, state.hash, number(state.version), Buffer.from(name))
  }

  /** @param {Entry} entry @param {Record<'index' | 'cipher' | 'value', Buffer>} keys */
  #seal({ index, value }, keys) {
    const name = Buffer.from(JSON.stringify(index))
    const plain = proto.SyncActionData.encode({ index: name, value: proto.SyncActionValue.fromObject({ timestamp: Date.now(), ...value }), padding: Buffer.alloc(0), version: ACTION_VERSION }).finish()
    const iv = randomBytes(16)
    const cipher = createCipheriv('aes-256-cbc', keys.cipher, iv)
    const sealed = Buffer.concat([iv, cipher.update(plain), cipher.final()])
    const about = Buffer.concat([Buffer.of(1), this.#keyId.id ?? Buffer.alloc(0)]) // 1: set
    const valueMac = createHmac('sha512', keys.value).update(about).update(sealed).update(number(about.length)).digest().subarray(0, 32)
    const indexMac = hmac(keys.index, name)
    return { indexMac, valueMac, record: { index: { blob: indexMac }, value: { blob: Buffer.concat([sealed, valueMac]) }, keyId: this.#keyId } }
  }
}

/** @param {Buffer} key @param {...Uint8Array} parts */
const hmac = (key, ...parts) => parts.reduce((mac, part) => mac.update(part), createHmac('sha256', key)).digest()

/** @param {number} value in eight bytes */
function number(value) {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32BE(value, 4)
  return bytes
}
