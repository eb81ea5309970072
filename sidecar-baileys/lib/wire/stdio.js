/** One JSON document a line over stdin and stdout, with a size limit. Does not know what the lines mean. */
import { createInterface } from 'node:readline'

/** A batch holds 1 MB or one message, and a message is at most 24 MB of JSON. The worker has the same limit. */
export const MAX_LINE_BYTES = 32 * 1024 * 1024

/**
 * @param {object} options
 * @param {NodeJS.ReadableStream} options.input
 * @param {NodeJS.WritableStream} options.output
 * @param {(document: any) => void} options.onDocument
 * @param {() => void} options.onEnd the other side has gone
 * @param {(error: Error) => void} options.onProtocolError a line that is not JSON, or over the limit
 * @returns {{send: (document: object) => void}}
 */
export function makeLineLink({ input, output, onDocument, onEnd, onProtocolError }) {
  const lines = createInterface({ input, crlfDelay: Infinity, terminal: false })
  lines.on('line', (line) => {
    if (line.length > MAX_LINE_BYTES) return onProtocolError(new Error('a line is over the limit'))
    let document
    try {
      document = JSON.parse(line)
    } catch {
      return onProtocolError(new Error('a line is not JSON'))
    }
    onDocument(document)
  })
  lines.on('close', onEnd)
  output.on('error', onEnd)
  return {
    send(document) {
      const line = JSON.stringify(document)
      if (Buffer.byteLength(line) >= MAX_LINE_BYTES) throw new Error('a line would be over the limit')
      output.write(line + '\n')
    },
  }
}
