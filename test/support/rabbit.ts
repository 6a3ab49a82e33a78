/** A real RabbitMQ of the test's own: its ports, its epmd, its data and its cookie, all on loopback. */
import { execFile } from 'node:child_process'
import { access, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from './ports.ts'
import { onPath, type RunningProcess, startProcess, temporaryFolder } from './process.ts'

export interface RabbitServer {
  url: string
  port: number
  /** Runs rabbitmqctl against this server and gives what it printed. */
  ctl(...args: string[]): Promise<string>
  /** Ends the broker and keeps its data, so that `restart` brings it back. */
  halt(signal?: NodeJS.Signals): Promise<void>
  restart(): Promise<void>
  /** Ends everything, and removes the data unless the caller gave the folder. */
  stop(): Promise<void>
}

/** Debian's scripts themselves: its wrapper on PATH would switch to the user `rabbitmq`, who may not read our folder. */
const scripts = '/usr/lib/rabbitmq/bin'

async function script(name: string): Promise<string> {
  const path = join(scripts, name)
  const isThere = await access(path).then(
    () => true,
    () => false
  )
  const found = isThere ? path : await onPath(name)
  if (found === null) throw new Error(`${name} was not found: install the Debian package rabbitmq-server`)
  return found
}

/** Starts a broker with the user guest; it is ready in about 5 s. */
export async function startRabbit(options: { dir?: string; port?: number } = {}): Promise<RabbitServer> {
  const [server, ctl, epmdProgram] = await Promise.all([
    script('rabbitmq-server'),
    script('rabbitmqctl'),
    onPath('epmd')
  ])
  if (epmdProgram === null) throw new Error('epmd was not found: install the Debian package erlang-base')
  const folder = options.dir ? null : await temporaryFolder('rabbit')
  const dir = options.dir ?? folder!.path
  const port = options.port ?? (await freePort())
  const epmdPort = await freePort()
  const env = await environment(dir, port, epmdPort)
  const epmd = await startProcess(epmdProgram, ['-address', '127.0.0.1', '-port', String(epmdPort)])
  let broker: RunningProcess | null = null

  const halt = async (signal?: NodeJS.Signals) => {
    await broker?.stop(signal)
    broker = null
  }
  const restart = async () => {
    await halt()
    broker = await startProcess(server, [], { env, ready: /completed with \d+ plugins/ })
  }
  const stop = async () => {
    await halt()
    await epmd.stop()
    await folder?.remove()
  }

  try {
    await restart()
  } catch (error) {
    await stop()
    throw error
  }
  return {
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    port,
    async ctl(...args) {
      const { stdout } = await promisify(execFile)(ctl, ['--quiet', ...args], { env: { ...process.env, ...env } })
      return stdout
    },
    halt,
    restart,
    stop
  }
}

async function environment(dir: string, port: number, epmdPort: number): Promise<Record<string, string>> {
  await mkdir(dir, { recursive: true })
  const file = async (name: string, text: string) => {
    await writeFile(join(dir, name), text)
    return join(dir, name)
  }
  return {
    HOME: dir,
    // Makes the script become the broker instead of its parent, so that its pid is the one to stop.
    RUNNING_UNDER_SYSTEMD: 'true',
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: '127.0.0.1',
    RABBITMQ_NODENAME: `longshore-${port}@localhost`,
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_NODE_PORT: String(port),
    RABBITMQ_DIST_PORT: String(await freePort()),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
    RABBITMQ_MNESIA_BASE: join(dir, 'mnesia'),
    RABBITMQ_LOG_BASE: join(dir, 'log'),
    RABBITMQ_LOGS: '-',
    // A broker that is killed while it starts would leave it in the folder of the tests.
    ERL_CRASH_DUMP: join(dir, 'erl_crash.dump'),
    RABBITMQ_SCHEMA_DIR: join(dir, 'schema'),
    RABBITMQ_GENERATED_CONFIG_DIR: join(dir, 'generated'),
    RABBITMQ_CONF_ENV_FILE: await file('rabbitmq-env.conf', ''),
    // A small machine's nearly full disk would otherwise block every publisher.
    RABBITMQ_CONFIG_FILE: await file('rabbitmq.conf', 'disk_free_limit.absolute = 1MB\n'),
    RABBITMQ_ENABLED_PLUGINS_FILE: await file('enabled_plugins', '[].\n')
  }
}
