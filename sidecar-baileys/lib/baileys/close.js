/** What the worker is told about the end of a connection. */

const FIELDS_MAX = 10
const LONGEST = 200

/**
 * @param {any} error a Boom, an Error, or nothing
 * @param {'connecting' | 'pairing' | 'open'} phase
 */
export const toWireClose = (error, phase) => ({
  code: error?.output?.statusCode ?? null,
  message: error?.message ?? 'ended',
  data: scalars(error?.data),
  phase,
})

/** @param {any} data of a close; of a node its tag and attributes say enough, its content may hold anything */
function scalars(data) {
  if (!data || typeof data !== 'object') return null
  const attrs = data.tag ? { tag: data.tag, ...data.attrs } : data
  const fields = Object.entries(attrs)
    .filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value))
    .slice(0, FIELDS_MAX)
    .map(([name, value]) => [name, typeof value === 'string' ? value.slice(0, LONGEST) : value])
  return fields.length > 0 ? Object.fromEntries(fields) : null
}
