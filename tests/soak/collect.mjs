/** Loaded into the sidecar of a soak (NODE_OPTIONS): collects all garbage often, so that what is left is what is kept. */
import v8 from 'node:v8'
import vm from 'node:vm'

const EVERY_MS = 5_000

v8.setFlagsFromString('--expose-gc')
const collect = vm.runInNewContext('gc')
setInterval(collect, EVERY_MS).unref()
