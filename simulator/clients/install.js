/** Installs the independent clients, each in its own temporary folder. None of them is kept in this repository. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const HOME = join(tmpdir(), 'wa-phone-clients')
const here = (/** @type {string} */ file) => join(import.meta.dirname, file)

/**
 * @typedef {object} Kind
 * @property {string} package
 * @property {string} version
 * @property {string} script - the driver beside this file
 */

/** @type {Record<string, Kind>} */
export const KINDS = {
  'zapo-js': { package: 'zapo-js', version: '0.3.0', script: 'zapo.js' },
  whaileys: { package: 'whaileys', version: '6.4.9', script: 'baileys.js' },
  'baileys-6.7': { package: '@whiskeysockets/baileys', version: '6.7.24', script: 'baileys.js' },
  'baileys-6.17': { package: '@whiskeysockets/baileys', version: '6.17.16', script: 'baileys.js' },
  'baileys-7-rc9': { package: '@whiskeysockets/baileys', version: '7.0.0-rc.9', script: 'baileys.js' },
  'baileys-7-rc14': { package: 'baileys', version: '7.0.0-rc14', script: 'baileys.js' },
  whatsmeow: { package: 'neonize', version: '0.5.2', script: 'whatsmeow.py' }
}

/** Installs a client unless it is there. @param {string} name @returns {{command: string, args: string[], home: string}} how it is started */
export function install(name) {
  const { package: wanted, version, script } = KINDS[name] ?? fail(name)
  const home = join(HOME, `${name}-${version}`)
  mkdirSync(home, { recursive: true })
  const python = join(home, 'bin', 'python')
  if (!existsSync(join(home, '.installed'))) {
    if (script.endsWith('.py')) installPython(home, python, `${wanted}==${version}`)
    else installNode(home, `${wanted}@${version}`)
    writeFileSync(join(home, '.installed'), '')
  }
  return script.endsWith('.py') ? { command: python, args: [here(script)], home } : { command: process.execPath, args: [here(script), wanted], home }
}

/** One whose package this repository has as well: of its own tests. @param {string} name */
export function alreadyHere(name) {
  const { package: wanted, script } = KINDS[name] ?? fail(name)
  return { command: process.execPath, args: [here(script), wanted], home: import.meta.dirname }
}

/** @param {string} name @returns {never} */
function fail(name) {
  throw new Error(`no client ${name}; there are ${Object.keys(KINDS).join(', ')}`)
}

/** libsignal is a repository on GitHub to them; the registry has the same code. @param {string} home @param {string} wanted */
function installNode(home, wanted) {
  const overrides = { libsignal: '6.0.0', '@whiskeysockets/eslint-config': 'npm:empty-npm-package@1.0.0' }
  writeFileSync(join(home, 'package.json'), JSON.stringify({ private: true, overrides }))
  execFileSync('npm', ['install', '--ignore-scripts', '--legacy-peer-deps', '--no-audit', '--no-fund', '--loglevel=error', wanted], { cwd: home, stdio: ['ignore', 'ignore', 'inherit'] })
}

/** @param {string} home @param {string} python @param {string} wanted */
function installPython(home, python, wanted) {
  execFileSync('python3', ['-m', 'venv', home], { stdio: ['ignore', 'ignore', 'inherit'] })
  execFileSync(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', wanted], { stdio: ['ignore', 'ignore', 'inherit'] })
}
