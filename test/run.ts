/**
 * Runs the tests: prepares the real servers that are missing, runs jest, and says which servers were exercised.
 *
 *   node test/run.ts                 everything
 *   node test/run.ts unit            one folder of test/; the unit tests need no server
 *   node test/run.ts rabbit journal  what jest's patterns match
 *
 * A whole run is two of jest beside each other: the simulation needs nothing but the processor, and takes what the
 * others leave of it while they wait for servers, leases and time-outs. It gives way to them.
 *
 * The last line is `N passed, N failed[, N skipped]`; the exit code is 1 when anything failed or nothing ran. With
 * CI=true a real server that was not exercised by a whole run fails it.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import os from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { builtProgramPath, goBinary, goPrograms, pinnedVersion } from './support/go-programs.ts'
import { cacheFolder, onPath, temporaryFolder } from './support/process.ts'

const root = resolve(import.meta.dirname, '..')
const supportFolder = join(root, 'test/support')

interface JestResult {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
  numTodoTests: number
  numRuntimeErrorTestSuites: number
  testResults: { name: string; assertionResults: { status: string }[] }[]
}

interface RealServer {
  name: string
  /** A use of this function in a test or in what it imports means that the server was started. */
  starter: RegExp
  program: string
  package: string | null
}

const servers: RealServer[] = [
  { name: 'OpenSSH', starter: /\bstartSshd\b/, program: 'sshd', package: 'openssh-server' },
  { name: 'ProFTPD', starter: /\bstartProftpd\b/, program: 'proftpd', package: 'proftpd-mod-crypto' },
  { name: 'Apache MINA SSHD', starter: /\bstartMinaSshd\b/, program: 'mina-sshd', package: null },
  { name: 'rclone serve sftp', starter: /\bstartRclone\b/, program: 'rclone', package: null },
  { name: 'NATS', starter: /\bstartNats\b/, program: 'nats-server', package: 'nats-server' },
  { name: 'RabbitMQ', starter: /\bstartRabbit\b/, program: 'rabbitmq-server', package: 'rabbitmq-server' },
  { name: 'MinIO', starter: /\bstartMinio\b/, program: 'minio', package: null },
  { name: 'Versity S3 gateway', starter: /\bstartVersitygw\b/, program: 'versitygw', package: null },
  { name: 'MongoDB', starter: /\bstartMongo\b/, program: 'mongod', package: null }
]

/** What is built by the support code's first use needs these. */
const buildTools = [
  { program: 'go', package: 'golang' },
  { program: 'javac', package: 'default-jdk-headless' },
  { program: 'mvn', package: 'maven' }
]

/** Moves the clock of one process. */
const clockTools = [{ program: 'faketime', package: 'faketime' }]

const isCi = process.env.CI === 'true'
const patterns = process.argv.slice(2)
const needsServers = patterns.length === 0 || !patterns.every((pattern) => /^(test\/)?unit(\/|$)/.test(pattern))
const problems: string[] = []

if (needsServers) await prepare()
const { result, code } = patterns.length === 0 ? await runAll() : await runJest(patterns.map(folderOrPattern))
if (needsServers && result !== null) await report(result)
for (const problem of problems) console.log(problem)
const failed = (result?.numFailedTests ?? 0) + (result?.numRuntimeErrorTestSuites ?? 0)
const passed = result?.numPassedTests ?? 0
const skipped = (result?.numPendingTests ?? 0) + (result?.numTodoTests ?? 0)
// Jest's own failure without a failed test, and a server that CI misses, count too: the line must not look like success.
const others = failed === 0 && code !== 0 && problems.length === 0 ? 1 : 0
const failures = failed + problems.length + others
process.exitCode = failures > 0 || passed === 0 ? 1 : 0
console.log(`${passed} passed, ${failures} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)

function folderOrPattern(argument: string): string {
  return ['unit', 'contract', 'integration', 'chaos'].includes(argument) ? `test/${argument}/` : argument
}

async function prepare(): Promise<void> {
  await installPackages()
  // Built here, so that minutes of building are no test's time.
  for (const program of goPrograms) await attempt(`build ${program}`, () => goBinary(program))
  for (const { path, text } of await supportSources()) {
    for (const [, name] of text.matchAll(/^export (?:async )?function (prepare\w*)\(/gm)) {
      await attempt(`${name} of ${relative(root, path)}`, async () => (await import(path))[name!]())
    }
  }
  if (!(await isMongoThere()) && !(await mongoStandIn())) {
    const { startMongo } = await import('./support/mongo.ts')
    await attempt('build the stand-in for MongoDB', async () => (await startMongo()).stop())
  }
}

/** The name of the built stand-in for MongoDB, or undefined. */
async function mongoStandIn(): Promise<string | undefined> {
  const names = await readdir(cacheFolder()).catch(() => [])
  return names.find((name) => /^mongo-java-server-[\d.]+$/.test(name))
}

/** A failure here is told, and shows again as the failure of the tests that need the server. */
async function attempt(what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    console.error(`could not ${what}: ${(error as Error).message.trim().split('\n').slice(-5).join('\n')}`)
  }
}

async function isMongoThere(): Promise<boolean> {
  return Boolean(process.env.MONGO_TEST_URL) || (await onPath('mongod')) !== null
}

async function installPackages(): Promise<void> {
  const wanted = [
    ...servers.map(({ program, package: name }) => ({ program, package: name })),
    ...buildTools,
    ...clockTools
  ]
  const missing: string[] = []
  for (const { program, package: name } of wanted) {
    if (name !== null && (await onPath(program)) === null) missing.push(name)
  }
  if (missing.length === 0) return
  const isRoot = process.getuid?.() === 0
  if (!isRoot || (await onPath('apt-get')) === null) {
    console.error(`missing, and not installed because this is not root on Debian: ${missing.join(' ')}`)
    return
  }
  console.error(`installing ${missing.join(' ')}`)
  // RUNLEVEL keeps the packages from starting daemons of their own where the init system asks for it.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', ...missing]]) {
    const { status } = spawnSync('apt-get', ['-qq', ...args], { env, stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) console.error(`apt-get ${args[0]} failed`)
  }
}

interface Run {
  result: JestResult | null
  code: number
}

async function runAll(): Promise<Run> {
  const runs = await Promise.all([
    runJest(['--testPathIgnorePatterns=test/simulation/']),
    runJest(['--runInBand', 'test/simulation/'], { SIMULATION_SEEDS: '10000' }, os.constants.priority.PRIORITY_LOW)
  ])
  return { result: runs.map(({ result }) => result).reduce(together), code: Math.max(...runs.map(({ code }) => code)) }
}

/** null where one of them is: without its results nobody knows how it went. */
function together(one: JestResult | null, other: JestResult | null): JestResult | null {
  if (!one || !other) return null
  const sum = (field: keyof Omit<JestResult, 'testResults'>) => one[field] + other[field]
  return {
    numPassedTests: sum('numPassedTests'),
    numFailedTests: sum('numFailedTests'),
    numPendingTests: sum('numPendingTests'),
    numTodoTests: sum('numTodoTests'),
    numRuntimeErrorTestSuites: sum('numRuntimeErrorTestSuites'),
    testResults: [...one.testResults, ...other.testResults]
  }
}

/** `priority`: of the process and all that it starts, as `os.setPriority` has it. */
async function runJest(args: string[], more: Record<string, string> = {}, priority = 0): Promise<Run> {
  const folder = await temporaryFolder('jest')
  const outputFile = join(folder.path, 'result.json')
  const jest = [join(root, 'node_modules/jest/bin/jest.js'), '--json', `--outputFile=${outputFile}`, ...args]
  const env = { ...more, ...process.env }
  const flags = ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning']
  try {
    const child = spawn(process.execPath, [...flags, ...jest], {
      cwd: root,
      env,
      stdio: ['ignore', 'ignore', 'inherit']
    })
    if (priority > os.getPriority() && child.pid !== undefined) os.setPriority(child.pid, priority)
    // Jest waits for ever for a handle that a test left open; once it has reported, that is a failure like another.
    let givingUp: NodeJS.Timeout | undefined
    const watch = setInterval(() => {
      if (givingUp !== undefined || !existsSync(outputFile)) return
      givingUp = setTimeout(() => {
        problems.push('the tests ended, but left something open that kept jest from ending')
        child.kill('SIGKILL')
      }, 120_000)
    }, 1000)
    const code = await new Promise<number>((done) => {
      child.once('error', () => done(1))
      child.once('exit', (status) => done(status ?? 1))
    })
    clearInterval(watch)
    clearTimeout(givingUp)
    return { result: existsSync(outputFile) ? JSON.parse(await readFile(outputFile, 'utf8')) : null, code }
  } finally {
    await folder.remove()
  }
}

async function report(result: JestResult): Promise<void> {
  const texts: string[] = []
  for (const { name, assertionResults } of result.testResults) {
    if (assertionResults.some(({ status }) => status === 'passed')) texts.push(...(await sourcesOf(name)).values())
  }
  const rows: string[][] = [['server', 'version', 'found', 'exercised']]
  for (const server of servers) {
    const isExercised = texts.some((text) => server.starter.test(usesOf(text)))
    rows.push([server.name, ...(await whereabouts(server)), isExercised ? 'yes' : 'no'])
    if (!isExercised && isCi && patterns.length === 0)
      problems.push(`${server.name} was not exercised, and CI=true asks for it`)
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((cells) => cells[column]!.length)))
  console.log('\nreal servers')
  for (const cells of rows)
    console.log(`  ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd())
  console.log()
}

/** A source without its imports and without the lines that only define a function. */
function usesOf(text: string): string {
  return text.replaceAll(/^import\s[^']*'[^']*'/gm, '').replaceAll(/^export .*function .*$/gm, '')
}

/** A test file and what it imports from this repository, by path. */
async function sourcesOf(path: string, seen = new Map<string, string>()): Promise<Map<string, string>> {
  if (seen.has(path) || !existsSync(path)) return seen
  const text = await readFile(path, 'utf8')
  seen.set(path, text)
  for (const [, target] of text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)) {
    const next = resolve(dirname(path), target!)
    if (next.startsWith(join(root, 'test'))) await sourcesOf(next, seen)
  }
  return seen
}

async function supportSources(): Promise<{ path: string; text: string }[]> {
  const names = (await readdir(supportFolder)).filter((name) => name.endsWith('.ts'))
  const paths = names.map((name) => join(supportFolder, name))
  return Promise.all(paths.map(async (path) => ({ path, text: await readFile(path, 'utf8') })))
}

/** Its version, and where it was found. */
async function whereabouts(server: RealServer): Promise<[string, string]> {
  if (server.name === 'MongoDB' && process.env.MONGO_TEST_URL) return ['the given one', 'MONGO_TEST_URL']
  const path = await onPath(server.program)
  if (path !== null) return [versionOf(server, path), path]
  const pinned = pinnedVersion(server.program)
  if (pinned && existsSync(builtProgramPath(server.program))) return [pinned, 'built from source, cached']
  if (server.name === 'Apache MINA SSHD') {
    const { builtMinaSshd, minaVersion } = await import('./support/mina-sshd.ts')
    if (await builtMinaSshd()) return [minaVersion, 'of Maven, cached']
  }
  const standIn = server.name === 'MongoDB' ? await mongoStandIn() : undefined
  if (standIn) return [standIn, 'stand-in of Maven, cached']
  return ['-', 'missing']
}

function versionOf(server: RealServer, path: string): string {
  if (server.package !== null) {
    const args = ['-W', '-f=$' + '{Version}', server.package]
    const { status, stdout } = spawnSync('dpkg-query', args, { encoding: 'utf8' })
    if (status === 0 && stdout !== '') return stdout.trim()
  }
  const { stdout, stderr } = spawnSync(path, ['--version'], { encoding: 'utf8', timeout: 10_000 })
  return /\d+\.\d+[\w.:~+-]*/.exec(`${stdout}${stderr}`)?.[0] ?? 'unknown'
}
