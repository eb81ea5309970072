/** The faults that are on, until they have occurred as often as requested or are cleared. Decides nothing else. */

/** @typedef {{kind: string, times: number} & Record<string, any>} Fault */

export class Faults {
  /** @type {Fault[]} */
  active = []

  /** @param {Record<string, any>} request */
  add(request) {
    const fault = { times: 1, ...request, kind: String(request.kind) }
    this.active.push(fault)
    return fault
  }

  /** Is it on? For faults that last until `clear`. @param {string} kind */
  has(kind) {
    return this.active.find((fault) => fault.kind === kind)
  }

  /**
   * Takes one occurrence of the fault, if one is left. `times: -1` never ends.
   * @param {string} kind @param {(fault: Fault) => boolean} [applies]
   */
  take(kind, applies = () => true) {
    const fault = this.active.find((one) => one.kind === kind && applies(one))
    if (!fault) return undefined
    if (fault.times > 0) fault.times--
    if (fault.times === 0) this.active = this.active.filter((one) => one !== fault)
    return fault
  }

  clear() {
    this.active = []
  }
}
