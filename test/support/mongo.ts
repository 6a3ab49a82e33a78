/**
 * A MongoDB for tests: the one at MONGO_TEST_URL, else `mongod` on PATH, else mongo-java-server with its H2 backend,
 * a stand-in that is right about single documents, unique indexes and compare-and-set, and slow.
 */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { access, constants, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import mongoose from 'mongoose'
import { freePort } from './ports.ts'
import { cacheFolder, onPath, type RunningProcess, startProcess } from './process.ts'

const run = promisify(execFile)
const version = '1.47.0'

export interface MongoOptions {
  /** The folder of the data, kept by `stop`; by default a temporary one, removed by `stop`. */
  dir?: string
  /** By default a free one. */
  port?: number
}

export interface RunningMongo {
  /** With a database name of its own. */
  url: string
  /** Of the server's process; null for the one at MONGO_TEST_URL, which is not ours to pause. */
  pid: number | null
  /** Whether it is the stand-in, which reads a whole collection where MongoDB reads an index. */
  isStandIn: boolean
  stop(): Promise<void>
}

/** Starts a server (with MONGO_TEST_URL only a fresh database, dropped by `stop`; `dir` and `port` mean nothing then). */
export async function startMongo({ dir, port }: MongoOptions = {}): Promise<RunningMongo> {
  const given = process.env.MONGO_TEST_URL
  if (given) return freshDatabase(given)

  const folder = dir ?? (await mkdtemp(join(tmpdir(), 'longshore-mongo-')))
  async function cleanUp(): Promise<void> {
    if (!dir) await rm(folder, { recursive: true, force: true })
  }
  try {
    const isStandIn = (await onPath('mongod')) === null
    const bound = port ?? (await freePort())
    const server = await (isStandIn ? startStandIn : startMongod)(folder, bound)
    return {
      url: `mongodb://127.0.0.1:${bound}/longshore`,
      pid: server.pid,
      isStandIn,
      stop: async () => {
        await server.stop()
        await cleanUp()
      }
    }
  } catch (error) {
    await cleanUp()
    throw error
  }
}

async function freshDatabase(given: string): Promise<RunningMongo> {
  const [, server, options] = /^(mongodb(?:\+srv)?:\/\/[^/?]+)(?:\/[^?]*)?(\?.*)?$/.exec(given) ?? []
  if (!server) throw new Error('MONGO_TEST_URL is not a mongodb:// address')
  const url = `${server}/longshore-test-${randomBytes(6).toString('hex')}${options ?? ''}`
  return {
    url,
    pid: null,
    isStandIn: false,
    stop: async () => {
      const connection = await mongoose.createConnection(url).asPromise()
      await connection.dropDatabase()
      await connection.close()
    }
  }
}

function startMongod(folder: string, port: number): Promise<RunningProcess> {
  const args = ['--dbpath', folder, '--bind_ip', '127.0.0.1', '--port', String(port)]
  return startProcess('mongod', args, { ready: /Waiting for connections/ })
}

async function startStandIn(folder: string, port: number): Promise<RunningProcess> {
  const standIn = await installStandIn()
  const classPath = [standIn, join(standIn, 'jars', '*')].join(delimiter)
  // On several threads it answers documents that another request changed after they matched (20 of 400 in a contest
  // of 50 claimers), and now and then drops a connection over it. On one thread it reads as atomically as MongoDB.
  const options = ['-Dio.netty.eventLoopThreads=1', '-XX:TieredStopAtLevel=1', '-Xmx512m', '-cp', classPath]
  const args = [...options, 'StandIn', join(folder, 'stand-in.mv'), String(port)]
  return startProcess('java', args, { ready: /^listening \d+$/m, hasInput: true })
}

const javaMain = `
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.net.InetSocketAddress;

public class StandIn {
  public static void main(String[] args) throws Exception {
    H2Backend backend = new H2Backend(args[0]);
    MongoServer server = new MongoServer(backend);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      server.shutdownNow();
      backend.close();
    }));
    server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])));
    System.out.println("listening " + server.getLocalAddress().getPort());
    // The end of stdin is the end of the test process, however it ended.
    while (System.in.read() >= 0) {}
    System.exit(0);
  }
}
`

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>longshore</groupId>
  <artifactId>mongo-stand-in</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>de.bwaldvogel</groupId>
      <artifactId>mongo-java-server-h2-backend</artifactId>
      <version>${version}</version>
    </dependency>
  </dependencies>
</project>
`

/** Resolves and compiles the stand-in once per user; test workers may race, the first rename wins. */
async function installStandIn(): Promise<string> {
  await required('java', 'default-jdk-headless')
  const cache = cacheFolder()
  const target = join(cache, 'mongo-java-server-1.47')
  if (await isReadable(join(target, 'StandIn.class'))) return target

  await required('javac', 'default-jdk-headless')
  await required('mvn', 'maven')
  await mkdir(cache, { recursive: true })
  const building = await mkdtemp(`${target}.`)
  try {
    await writeFile(join(building, 'pom.xml'), pom)
    await writeFile(join(building, 'StandIn.java'), javaMain)
    const jars = join(building, 'jars')
    await run('mvn', ['-q', '-B', 'dependency:copy-dependencies', `-DoutputDirectory=${jars}`], { cwd: building })
    await run('javac', ['-cp', join(jars, '*'), '-d', building, join(building, 'StandIn.java')])
    await rename(building, target).catch(async (error: NodeJS.ErrnoException) => {
      if (!(await isReadable(join(target, 'StandIn.class')))) throw error
    })
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  return target
}

async function required(command: string, debianPackage: string): Promise<void> {
  if (await onPath(command)) return
  throw new Error(
    `The tests need a MongoDB: set MONGO_TEST_URL, put mongod on PATH, or install the Debian package ${debianPackage} (\`${command}\` is missing) for the stand-in`
  )
}

function isReadable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false
  )
}
