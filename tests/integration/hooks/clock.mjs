// Steps this Node's wall clock: by as many seconds as the file in `?file=` says, looked at ten times a second.
// Timers, performance.now() and the uptime go on as they are, as when somebody sets a machine's clock.
import { readFileSync } from 'node:fs'

const RealDate = Date
let offset = 0
const file = new URL(import.meta.url).searchParams.get('file')
setInterval(() => {
  try { offset = Number(readFileSync(file, 'utf8')) * 1000 || 0 } catch { offset = 0 }
}, 100).unref()

globalThis.Date = class extends RealDate {
  constructor(...args) {
    if (args.length > 0) super(...args)
    else super(RealDate.now() + offset)
  }

  static now() { return RealDate.now() + offset }
}
