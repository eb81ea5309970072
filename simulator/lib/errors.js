/** What a caller of the control API did wrong, with the HTTP status that says so. */
export class ControlError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message)
    this.status = status
  }
}
