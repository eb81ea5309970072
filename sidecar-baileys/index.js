#!/usr/bin/env node
/**
 * The sidecar: Baileys behind JSON-RPC on stdio. The worker starts it, and it ends with the worker.
 *
 * Order matters here: console, signature check, key types and modules are replaced before anything of Baileys loads.
 */
import { checkPackages, installedPackages, whyNot } from './lib/baileys/internals.js'
import { installStrictSignatures } from './lib/baileys/curve.js'
import { installKeyObjects } from './lib/baileys/key_objects.js'
import { loadLean } from './lib/baileys/lean.js'
import { Mark, markDescriptor } from './lib/log/mark.js'
import { captureConsole, makeLogger } from './lib/logger.js'

if (process.argv.includes('--help') || process.stdin.isTTY) {
  process.stderr.write(
    'The wa-worker sidecar speaks JSON-RPC on stdin and stdout (docs/protocol.md). `wa-worker` starts it.\n')
  process.exit(process.argv.includes('--help') ? 0 : 2)
}

const logger = makeLogger(process.env.LOG_LEVEL ?? 'info')
captureConsole(logger)
installKeyObjects()
const signatures = installStrictSignatures()
if (!signatures.native) {
  logger.warn({ reason: signatures.reason }, 'signatures are checked strictly, but slowly, by libsignal itself')
}
const loaded = loadLean()
try {
  checkPackages(await installedPackages())
} catch (error) {
  for (const line of whyNot(error)) logger.error(line)
  process.exit(1)
}

const { boundKeySteps } = await import('./lib/baileys/key_steps.js')
boundKeySteps()
const { makePeer } = await import('./lib/wire/peer.js')
const { registerMethods } = await import('./lib/wire/methods.js')
loaded()

const peer = makePeer({
  input: process.stdin,
  output: process.stdout,
  logger,
  onEnd: () => process.exit(0), // the worker is gone; what is not durable has no receipt
})
const mark = new Mark(markDescriptor(), (error) =>
  logger.warn({ err: error }, 'a stanza that kills cannot be marked any more'))
const { onUnhandled } = registerMethods(peer, logger, mark)

process.on('unhandledRejection', (error) => {
  logger.error({ err: error }, 'unhandled rejection')
  onUnhandled(/** @type {Error} */ (error))
})
process.on('uncaughtException', (error) => {
  logger.error({ err: error }, 'uncaught exception: the sidecar ends')
  process.exit(1)
})
