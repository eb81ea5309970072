/**
 * Named points at which a chaos run lets this process die (`make chaos`). Without `WA_CRASH_POINT` in the environment,
 * which only the tests set, each call is one comparison.
 */
import { existsSync, unlinkSync } from 'node:fs'

const point = process.env.WA_CRASH_POINT ?? ''
/** The file arms the point: it is removed by the one crash, so that the restarted process lives. */
const trigger = process.env.WA_CRASH_FILE ?? ''

/** @param {string} name */
export function crashPoint(name) {
  if (name !== point || !existsSync(trigger)) return
  unlinkSync(trigger)
  process.kill(process.pid, 'SIGKILL')
}
