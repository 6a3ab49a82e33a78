import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import { armFailpoints, failpoint, failpointNames, parseFailpoints } from '../../drivers/failpoint.ts'

const module = join(import.meta.dirname, '../../drivers/failpoint.ts')

afterEach(() => armFailpoints([]))

describe('failpoint', () => {
  test('lets everything pass while nothing is armed', async () => {
    for (const name of failpointNames) await expect(failpoint(name)).resolves.toBeUndefined()
  })

  test('acts on the pass that was named, and on no other', async () => {
    armFailpoints(parseFailpoints('after-claim=error@2')!)
    await failpoint('after-claim')
    await failpoint('after-confirm')
    await expect(failpoint('after-claim')).rejects.toMatchObject({ type: 'INTERNAL' })
    await failpoint('after-claim')
  })

  test('pauses for as long as it was told', async () => {
    armFailpoints(parseFailpoints('between-parts=pause:30')!)
    const before = performance.now()
    await failpoint('between-parts')
    expect(performance.now() - before).toBeGreaterThan(25)
  })

  test('kills its own process at once, without another step', () => {
    const source = `
      const { armFailpoints, failpoint, parseFailpoints } = await import(${JSON.stringify(module)})
      armFailpoints(parseFailpoints('after-complete=crash@2'))
      await failpoint('after-complete')
      console.log('passed once')
      await failpoint('after-complete')
      console.log('passed twice')`
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' })
    expect(child).toMatchObject({ signal: 'SIGKILL', stdout: 'passed once\n' })
  })
})

describe('parseFailpoints', () => {
  test('reads several', () => {
    expect(parseFailpoints('between-parts=crash@3, after-claim=pause:500')).toEqual([
      { name: 'between-parts', action: 'crash', pauseMs: 0, pass: 3 },
      { name: 'after-claim', action: 'pause', pauseMs: 500, pass: 1 }
    ])
  })

  test.each(['nowhere=crash', 'after-claim', 'after-claim=burn', 'after-claim=pause', 'after-claim=crash@0'])(
    'refuses %s',
    (text) => expect(parseFailpoints(text)).toBeNull()
  )
})
