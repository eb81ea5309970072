/** The linked account: its credentials, who it is, and its own name. */
import { areJidsSameUser, initAuthCreds } from 'baileys'
import { reviveCreds, serialiseCreds } from './serial.js'

/** The app-state collection with the account's own name; for ordinary accounts the name is only there. */
const OWN_NAME = 'critical_block'
/**
 * Baileys counts here how often it has fetched the app state. At 0 it fetches every collection with the first history:
 * thousands of contacts as files, without a time-out, in a transaction that every retry receipt waits for. The worker
 * needs none of them.
 */
const NEVER_FETCH = { accountSyncCounter: 1 }

export class Account {
  #options
  #nameWanted = false
  #fetchingName = false

  /**
   * @param {string | null} creds serialised; null for a new account
   * @param {object} options
   * @param {(creds: string) => void} options.journal takes the credentials whenever they have changed
   * @param {(collections: (typeof OWN_NAME)[]) => Promise<unknown>} options.fetch fetches collections of the app state
   * @param {import('pino').Logger} options.logger
   * @throws {Error} if the credentials are torn
   */
  constructor(creds, options) {
    this.#options = options
    const stored = creds === null ? null : reviveCreds(creds)
    // Discard what an attempt to link left behind: with `me` in it, Baileys would log in instead of registering.
    /** The live object, which Baileys shares. @type {import('baileys').AuthenticationCreds} */
    this.creds = stored?.account ? stored : { ...initAuthCreds(), ...NEVER_FETCH }
  }

  get linked() { return Boolean(this.creds.account) }

  /** @param {string} jid */
  isMe(jid) {
    const { me } = this.creds
    return areJidsSameUser(jid, me?.id) || areJidsSameUser(jid, me?.lid)
  }

  /**
   * Journal the credentials before Baileys takes the change: the log must hold what Baileys is about to believe.
   * @param {object} update
   */
  merge(update) {
    Object.assign(this.creds, update)
    this.#options.journal(serialiseCreds(this.creds))
    // If `me` had another name than ours, or none, Baileys would send a presence and the account would show as online.
    return { ...update, me: this.creds.me }
  }

  /** The key for the collections has come, or another part of it: fetch once more, if the name is still missing. */
  async fetchName() {
    this.#nameWanted = true
    if (this.#fetchingName) return
    this.#fetchingName = true
    while (this.#nameWanted && !this.creds.me?.name) {
      this.#nameWanted = false
      await this.#options.fetch([OWN_NAME]).catch((error) =>
        this.#options.logger.debug({ err: error }, 'the account\'s name could not be fetched'))
    }
    this.#fetchingName = false
  }
}
