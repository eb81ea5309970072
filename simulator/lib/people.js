/** The people: the account's owner, the others, their addresses and devices; and the groups. */
import { randomInt } from 'node:crypto'
import { Device } from './device.js'
import { ControlError } from './errors.js'

const FIRST_PHONE = 491510000000
const FIRST_LID = 100_000_000_000_000

export class Person {
  /** @type {Map<number, Device>} */
  devices = new Map()

  /** @param {string} name @param {string} lidUser @param {string} phone */
  constructor(name, lidUser, phone) {
    this.name = name
    this.lidUser = lidUser
    this.phone = phone
  }

  /** @param {number} [number] - 0: the phone */
  device(number = 0) {
    let device = this.devices.get(number)
    if (!device) this.devices.set(number, (device = new Device(number)))
    return device
  }

  /** @param {'lid' | 'pn'} mode @param {number} [device] */
  jid(mode, device = 0) {
    const suffix = device ? `:${device}` : ''
    return mode === 'lid' ? `${this.lidUser}${suffix}@lid` : `${this.phone}${suffix}@s.whatsapp.net`
  }

  toJSON() {
    return { name: this.name, lid: this.jid('lid'), pn: this.jid('pn') }
  }
}

/** Everybody on the server, each under one name; the owners of accounts among them. */
export class Registry {
  /** @type {Map<string, Person>} */
  #byName = new Map()
  /** @type {Person[]} */
  owners = []
  #made = 0

  /** @param {string} name @param {{phone?: string, lid?: string}} [address] */
  #make(name, address = {}) {
    const number = ++this.#made
    const digits = (/** @type {string | undefined} */ text) => text?.split('@')[0]?.replace(/\D/g, '')
    return new Person(name, digits(address.lid) ?? String(FIRST_LID + number * 1000 + randomInt(1000)), digits(address.phone) ?? String(FIRST_PHONE + number))
  }

  /** @param {string} name @param {{phone?: string, lid?: string}} address */
  makeOwner(name, address) {
    const owner = this.#make(name, address)
    this.owners.push(owner)
    return owner
  }

  /** @param {string} name @param {{phone?: string, lid?: string}} [address] */
  get(name, address) {
    let person = this.#byName.get(name) ?? this.owners.find((owner) => owner.name === name)
    if (!person) this.#byName.set(name, (person = this.#make(name, address)))
    return person
  }

  get strangers() {
    return [...this.#byName.values()]
  }
}

/** The people as one account sees them: `me` is its owner. */
export class People {
  /** @param {Registry} registry @param {string} ownerName @param {{phone?: string, lid?: string}} [address] */
  constructor(registry, ownerName, address = {}) {
    this.registry = registry
    this.owner = registry.makeOwner(ownerName, address)
  }

  /** The person of that name, made if new. @param {string} name @param {{phone?: string, lid?: string}} [address] */
  get(name, address) {
    if (typeof name !== 'string' || !name) throw new ControlError(400, 'a person needs a name')
    return name === 'me' ? this.owner : this.registry.get(name, address)
  }

  /** All but the owner. */
  get all() {
    return [...this.registry.owners.filter((owner) => owner !== this.owner), ...this.registry.strangers]
  }

  /** @param {string | undefined} jid - in any form @returns {Person | undefined} */
  byJid(jid) {
    const [user = '', server = ''] = (jid ?? '').split('@')
    const bare = user.split(':')[0]
    const key = server === 'lid' ? 'lidUser' : 'phone'
    return [this.owner, ...this.all].find((person) => person[key] === bare)
  }
}

/**
 * @typedef {object} Group
 * @property {string} id
 * @property {string} subject
 * @property {'lid' | 'pn'} mode
 * @property {Person[]} members
 * @property {Set<Person>} past - members who left or were removed
 * @property {Person} creator
 * @property {Person[]} admins - besides the creator
 * @property {string | null} community - the id of the one it belongs to
 * @property {number} created - Unix seconds
 * @property {number} renamed - Unix seconds
 */
