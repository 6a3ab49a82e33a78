/** Programs that are built from their Go modules: which ones, and where a built one is kept. */
import { execFile } from 'node:child_process'
import { chmod, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder, isProgram, onPath } from './process.ts'

/** The versions that the tests and the benchmark were written against. */
const modules = {
  'compose-spec': 'github.com/compose-spec/compose-go/v2/cmd@v2.16.2',
  minio: 'github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c',
  rclone: 'github.com/rclone/rclone@v1.76.0',
  versitygw: 'github.com/versity/versitygw/cmd/versitygw@v1.8.0'
}

/** Fetched where the installed Go is older than 1.21, the first that fetches by itself the Go that a module asks for. */
const toolchain = { version: 'go1.26.8', oldestGo: 21 }

const run = promisify(execFile)

export type GoProgram = keyof typeof modules
export const goPrograms = Object.keys(modules) as GoProgram[]

/** The pinned version of a program that is built here, such as `v1.76.0`; undefined for others. */
export function pinnedVersion(program: string): string | undefined {
  return modules[program as GoProgram]?.split('@')[1]
}

export function builtProgramPath(program: string): string {
  return join(cacheFolder(), 'bin', program)
}

/**
 * The path of a program: named by `<NAME>_BIN` in the environment, on PATH, built earlier, or built now (minutes) with
 * `go`. Rejects where there is no `go` either.
 */
export async function goBinary(program: GoProgram): Promise<string> {
  const named = process.env[`${program.toUpperCase().replaceAll('-', '_')}_BIN`]
  if (named) return named
  const installed = await onPath(program)
  if (installed) return installed
  const cached = builtProgramPath(program)
  if (await isProgram(cached)) return cached
  // Built aside and renamed, so that two runs at once never see half a program.
  const building = join(cacheFolder(), 'bin', `.${program}-${process.pid}`)
  await mkdir(building, { recursive: true })
  const module = modules[program]
  try {
    await run(await goCommand(), ['install', module], {
      env: { ...process.env, GOBIN: building, CGO_ENABLED: '0' },
      maxBuffer: 64 * 1024 * 1024
    })
    // Go names a program after its package's folder.
    await rename(join(building, module.split('@')[0]!.split('/').at(-1)!), cached)
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  return cached
}

/**
 * The `go` to build with. Debian 12 has 1.19, which understands no module of today; but it can download a newer Go, for
 * that is published as the module `golang.org/toolchain` (go.dev/doc/toolchain). An old Go unpacks it without its
 * programs' right to be run.
 */
async function goCommand(): Promise<string> {
  const { stdout } = await run('go', ['env', 'GOVERSION', 'GOOS', 'GOARCH'])
  const [version, platform, architecture] = stdout.trim().split('\n')
  const minor = Number(/^go1\.(\d+)/.exec(version!)?.[1] ?? Number.POSITIVE_INFINITY)
  if (minor >= toolchain.oldestGo) return 'go'
  const module = `golang.org/toolchain@v0.0.1-${toolchain.version}.${platform}-${architecture}`
  const { Dir: folder } = JSON.parse((await run('go', ['mod', 'download', '-json', module])).stdout)
  for (const programs of ['bin', `pkg/tool/${platform}_${architecture}`]) {
    for (const name of await readdir(join(folder, programs))) await chmod(join(folder, programs, name), 0o755)
  }
  return join(folder, 'bin/go')
}
