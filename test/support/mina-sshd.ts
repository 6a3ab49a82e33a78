/** Apache MINA SSHD, the Java world's SFTP server, of Maven: a small program around it, compiled once per user. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { access, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder, onPath, startProcess, temporaryFolder } from './process.ts'

const run = promisify(execFile)

/** The version that the tests were written against. */
export const minaVersion = '2.16.0'

export interface MinaSshd {
  host: '127.0.0.1'
  port: number
  username: string
  password: string
  /** "SHA256:…" */
  hostKey: string
  /** Its clients see this folder as "/". */
  root: string
  pid: number
  stop(): Promise<void>
}

const javaMain = `
import java.nio.file.Path;
import java.security.KeyPair;
import java.util.List;
import org.apache.sshd.common.config.keys.KeyUtils;
import org.apache.sshd.common.file.virtualfs.VirtualFileSystemFactory;
import org.apache.sshd.common.keyprovider.KeyPairProvider;
import org.apache.sshd.server.SshServer;
import org.apache.sshd.sftp.server.SftpSubsystemFactory;

public class MinaSshd {
  public static void main(String[] args) throws Exception {
    KeyPair key = KeyUtils.generateKeyPair(KeyPairProvider.ECDSA_SHA2_NISTP256, 256);
    SshServer server = SshServer.setUpDefaultServer();
    server.setHost("127.0.0.1");
    server.setPort(0);
    server.setKeyPairProvider(KeyPairProvider.wrap(key));
    server.setPasswordAuthenticator((user, password, session) -> user.equals(args[1]) && password.equals(args[2]));
    server.setFileSystemFactory(new VirtualFileSystemFactory(Path.of(args[0])));
    server.setSubsystemFactories(List.of(new SftpSubsystemFactory.Builder().build()));
    server.start();
    // The test process may end without a word.
    ProcessHandle.current().parent().orElseThrow().onExit().thenRun(() -> Runtime.getRuntime().halt(0));
    System.out.println("listening " + server.getPort() + " " + KeyUtils.getFingerPrint(key.getPublic()));
    Thread.currentThread().join();
  }
}
`

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>longshore</groupId>
  <artifactId>mina-sshd</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.sshd</groupId>
      <artifactId>sshd-sftp</artifactId>
      <version>${minaVersion}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-nop</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
`

export async function startMinaSshd(): Promise<MinaSshd> {
  const program = await prepareMinaSshd()
  const root = await temporaryFolder('sftp-root')
  const [username, password] = ['ada', 'a fine secret']
  const classPath = [program, join(program, 'jars', '*')].join(delimiter)
  const options = ['-XX:TieredStopAtLevel=1', '-Xmx512m', '-cp', classPath]
  try {
    const running = await startProcess('java', [...options, 'MinaSshd', root.path, username, password], {
      // Java names files in the locale's character set.
      env: { LC_ALL: 'C.UTF-8' },
      ready: /^listening .+$/m
    })
    const [, port, hostKey] = /^listening (\d+) (\S+)$/m.exec(running.output())!
    return {
      host: '127.0.0.1',
      port: Number(port),
      username,
      password,
      hostKey: hostKey!,
      root: root.path,
      pid: running.pid,
      stop: async () => {
        await running.stop()
        await root.remove()
      }
    }
  } catch (error) {
    await root.remove()
    throw error
  }
}

/** Resolves and compiles it once per user and returns its folder; test workers may race, the first rename wins. */
export async function prepareMinaSshd(): Promise<string> {
  await required('java', 'default-jdk-headless')
  const built = await builtMinaSshd()
  if (built) return built

  const target = programFolder()
  await required('javac', 'default-jdk-headless')
  await required('mvn', 'maven')
  await mkdir(cacheFolder(), { recursive: true })
  const building = await mkdtemp(`${target}.`)
  try {
    await writeFile(join(building, 'pom.xml'), pom)
    await writeFile(join(building, 'MinaSshd.java'), javaMain)
    const jars = join(building, 'jars')
    await run('mvn', ['-q', '-B', 'dependency:copy-dependencies', `-DoutputDirectory=${jars}`], { cwd: building })
    await run('javac', ['-cp', join(jars, '*'), '-d', building, join(building, 'MinaSshd.java')])
    await rename(building, target).catch(async (error) => {
      if (!(await builtMinaSshd())) throw error
    })
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  return target
}

/** The folder of the compiled program, or null. */
export async function builtMinaSshd(): Promise<string | null> {
  const folder = programFolder()
  return access(join(folder, 'MinaSshd.class')).then(
    () => folder,
    () => null
  )
}

/** Another version, or another program around it, is built anew. */
function programFolder(): string {
  const hash = createHash('sha256').update(pom).update(javaMain).digest('hex').slice(0, 8)
  return join(cacheFolder(), `mina-sshd-${minaVersion}-${hash}`)
}

async function required(program: string, debianPackage: string): Promise<void> {
  if (await onPath(program)) return
  throw new Error(`Apache MINA SSHD needs ${program}: install the Debian package ${debianPackage}`)
}
