import { spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { goBinary } from '../support/go-programs.ts'
import { temporaryFolder } from '../support/process.ts'

const original = join(import.meta.dirname, '../../docker-compose.yml')

/**
 * The reader that `docker compose config` uses, without the engine. Its own program does not see the environment, so
 * every variable is filled in before: with its default, or with a word.
 */
describe('the reader of Docker Compose', () => {
  let reader: string
  let text: string
  let folder: Awaited<ReturnType<typeof temporaryFolder>>

  beforeAll(async () => {
    reader = await goBinary('compose-spec')
    folder = await temporaryFolder('compose')
    text = (await readFile(original, 'utf8')).replace(/\$\{\w+(?::-([^}]*)|:\?)\}/g, (_, initial) => initial ?? 'word')
  }, 600_000)
  afterAll(() => folder.remove())

  async function read(compose: string) {
    const path = join(folder.path, 'docker-compose.yml')
    await writeFile(path, compose)
    const { status, stdout, stderr } = spawnSync(reader, ['-format', 'json', path], { encoding: 'utf8' })
    return { status, stderr, project: status === 0 ? JSON.parse(stdout) : null }
  }

  test('takes docker-compose.yml, with a container for each service and the demo', async () => {
    const { stderr, project } = await read(text)
    expect(stderr).toBe('')
    const services = ['api', 'files', 'notifier', 'scanner', 'servers', 'storage', 'transfer']
    expect(Object.keys(project.services)).toEqual(expect.arrayContaining([...services, 'sftp-demo']))
    expect(project.services.transfer.environment).toMatchObject({ SERVICES: 'transfer' })
  })

  test('refuses what Compose does not know', async () => {
    const { status, stderr } = await read(text.replace('service_healthy', 'service_helthy'))
    expect(status).not.toBe(0)
    expect(stderr).toContain('service_completed_successfully')
  })
})
