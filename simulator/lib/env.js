/** The settings by which a worker finds and trusts this server instead of WhatsApp's, as a file that a shell or a container reads. */
import { writeFileSync } from 'node:fs'

/**
 * Writes `file`, and beside it `file`.ca.pem with the media host's authority.
 * @param {string} file @param {{socket_url: string, root_key: string, media_origin: string, media_ca: string}} endpoints
 */
export function writeEnv(file, { socket_url, root_key, media_origin, media_ca }) {
  const authority = `${file}.ca.pem`
  writeFileSync(authority, media_ca)
  writeFileSync(file, `WA_SOCKET_URL=${socket_url}\nWA_ROOT_KEY=${root_key}\nWA_MEDIA_ORIGIN=${media_origin}\nWA_MEDIA_CA=${authority}\n`)
}
