import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { S3Client } from '../../drivers/store/s3-request.ts'
import { goBinary } from './go-programs.ts'
import { freePort } from './ports.ts'
import { type RunningProcess, startProcess, temporaryFolder } from './process.ts'

export interface S3Server {
  readonly endpoint: string
  readonly accessKey: string
  readonly secretKey: string
  readonly pid: number
  /** Ends the program; its data stay until `stop`. */
  halt(signal?: NodeJS.Signals): Promise<void>
  /** Starts it again on the same port with the same data. */
  resume(): Promise<void>
  /** Ends it and removes the data, unless the caller named their folder. */
  stop(): Promise<void>
}

export interface S3ServerOptions {
  /** Where the data are; a temporary folder by default. */
  dir?: string
  port?: number
}

const accessKey = 'longshore'
const secretKey = 'longshore-test'

/** A MinIO server of one drive on loopback. */
export async function startMinio(options: S3ServerOptions = {}): Promise<S3Server> {
  const binary = await goBinary('minio')
  return serve(options, async (dir, port) => ({
    command: binary,
    args: ['server', dir, '--address', `127.0.0.1:${port}`, '--quiet', '--anonymous'],
    env: {
      MINIO_ROOT_USER: accessKey,
      MINIO_ROOT_PASSWORD: secretKey,
      MINIO_BROWSER: 'off',
      MINIO_UPDATE: 'off',
      MINIO_CI_CD: 'on'
    }
  }))
}

/** A Versity gateway over a folder on loopback: a second S3 of another making. */
export async function startVersitygw(options: S3ServerOptions = {}): Promise<S3Server> {
  const binary = await goBinary('versitygw')
  return serve(options, async (dir, port) => {
    const data = join(dir, 'data')
    const sidecar = join(dir, 'sidecar')
    await mkdir(data, { recursive: true })
    await mkdir(sidecar, { recursive: true })
    return {
      command: binary,
      // Metadata in files of their own: not every file system under a temporary folder has extended attributes.
      args: ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', '--sidecar', sidecar, data],
      env: { ROOT_ACCESS_KEY: accessKey, ROOT_SECRET_KEY: secretKey }
    }
  })
}

type Command = { command: string; args: string[]; env: Record<string, string> }

async function serve(
  options: S3ServerOptions,
  commandFor: (dir: string, port: number) => Promise<Command>
): Promise<S3Server> {
  const port = options.port ?? (await freePort())
  const own = options.dir === undefined ? await temporaryFolder('s3') : null
  const { command, args, env } = await commandFor(options.dir ?? own!.path, port)
  const endpoint = `http://127.0.0.1:${port}`
  const start = () => startProcess(command, args, { env, ready: () => answers(endpoint) })
  let server: RunningProcess = await start()
  return {
    endpoint,
    accessKey,
    secretKey,
    get pid() {
      return server.pid
    },
    halt: (signal = 'SIGKILL') => server.stop(signal),
    async resume() {
      server = await start()
    },
    async stop() {
      await server.stop('SIGKILL')
      await own?.remove()
    }
  }
}

/** MinIO's health address says 200 some time before it takes a signed request, so one of these is the question. */
async function answers(endpoint: string): Promise<boolean> {
  const client = new S3Client({ endpoint, bucket: 'longshore-probe', region: 'us-east-1', accessKey, secretKey })
  try {
    await client.send({ method: 'HEAD', key: 'probe', signal: AbortSignal.timeout(15_000) })
    return true
  } catch (error) {
    return (error as { data?: { status?: number } }).data?.status === 404
  } finally {
    client.close()
  }
}
