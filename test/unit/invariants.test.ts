import { describe, expect, test } from '@jest/globals'
import { messageIdOf } from '../../domain/announcement.ts'
import { fileId } from '../../domain/file-record.ts'
import { type CheckedRecord, type Content, judge, type Rules, type Snapshot } from '../support/invariants.ts'

const T = Date.UTC(2026, 0, 1)

function recordOf(path: string, content: Content, more: Partial<CheckedRecord> = {}): CheckedRecord {
  const version = more.version ?? 1
  const id = fileId('s1', path, version)
  const key = version > 1 ? `partner${path}@${version}` : `partner${path}`
  return {
    id,
    serverId: 's1',
    serverName: 'partner',
    path,
    version,
    size: content.size,
    mtime: content.mtime!,
    status: 'notified',
    why: null,
    object: { key, size: content.size, told: `told of ${key}`, storedAt: T + 300 },
    messageId: messageIdOf(id),
    history: (['settling', 'pending', 'downloading', 'uploaded', 'notified'] as const).map((status, index) => {
      return { at: T + index * 100, status }
    }),
    historyDropped: 0,
    ...more
  }
}

function contentOf(sha256: string, size = sha256.length, mtime = T - 60_000): Content {
  return { sha256, size, mtime }
}

/** Two files, each with its record, its object and its message. */
function sound() {
  const [a, b] = [contentOf('content of a'), contentOf('content of b')]
  const records = [recordOf('/a', a), recordOf('/b', b)]
  const snapshot: Snapshot = {
    sources: [
      { serverId: 's1', path: '/a', contents: [a], isThere: true, isTaken: true },
      { serverId: 's1', path: '/b', contents: [b], isThere: true, isTaken: true }
    ],
    records,
    objects: new Map([a, b].map((content, index) => [records[index]!.object!.key, { ...content }])),
    uploads: [],
    leftovers: [],
    messages: records.map(({ id, path, object, messageId }) => ({
      ...{ messageId: messageId!, eventId: messageId!, contentType: 'application/cloudevents+json' },
      ...{ receivedAt: T + 350, fileId: id, subject: path, path, told: object!.told }
    })),
    texts: { 'the log': 'all is well' },
    secrets: ['s3cret']
  }
  return { snapshot, a: records[0]!, b: records[1]!, source: snapshot.sources[0]!, message: snapshot.messages[0]! }
}

type Sound = ReturnType<typeof sound>
const strict: Rules = { end: 'notified' }
const loose: Rules = { end: 'settled' }

describe('the checker', () => {
  test('says nothing of a run in which all is well', () => {
    for (const rules of [strict, loose]) expect(judge(sound().snapshot, rules)).toEqual({ problems: [], duplicates: 0 })
  })

  test.each<[string, RegExp, (run: Sound) => void]>([
    ['a file without a record', /"\/a" has no record/, ({ snapshot }) => snapshot.records.shift()],
    ['a second record', /"\/a" has 2 records/, ({ snapshot, a }) => snapshot.records.push({ ...a, id: 'other' })],
    ['a second version', /"\/a" has 2 records/, ({ snapshot, a }) => snapshot.records.push({ ...a, version: 2 })],
    ['a record of nothing', /"\/a" has a record, and was never/, ({ snapshot }) => snapshot.sources.shift()],
    ['a state that is no rest', /"\/a" is uploaded/, ({ a }) => Object.assign(a, { status: 'uploaded' })],
    ['a claim that was left', /"\/a" is downloading/, ({ a }) => Object.assign(a, { status: 'downloading' })],
    ['a failure without a reason', /failed without a reason/, ({ a }) => Object.assign(a, { status: 'failed' })],
    ['a step that is not allowed', /went from settling to downloading/, ({ a }) => a.history.splice(1, 1)],
    ['a history that ends elsewhere', /its history ends in uploaded/, ({ a }) => a.history.pop()],
    ['a history that goes back', /goes back in time/, ({ a }) => Object.assign(a.history[3]!, { at: T })],
    ['a missing object', /no object of its own/, ({ snapshot, a }) => snapshot.objects.delete(a.object!.key)],
    ['one object for two', /"\/b": no object of its own/, ({ a, b }) => Object.assign(b, { object: a.object })],
    [
      'other bytes',
      /the object is not the source/,
      ({ source }) => Object.assign(source.contents[0]!, { sha256: 'x' })
    ],
    ['a record of another size', /the record says 1 bytes/, ({ a }) => Object.assign(a, { size: 1 })],
    ['a stray object', /object "x" belongs to no/, ({ snapshot }) => snapshot.objects.set('x', contentOf('x'))],
    ['an upload', /uploads were left/, ({ snapshot, a }) => snapshot.uploads.push({ ...a.object!, uploadId: 'u' })],
    ['a silent file', /"\/a" was never announced/, ({ snapshot }) => snapshot.messages.shift()],
    [
      'another id',
      /messages with ids/,
      ({ snapshot, message }) => snapshot.messages.push({ ...message, messageId: 'm' })
    ],
    ['an id of its own', /messageId .* and event id/, ({ message }) => Object.assign(message, { messageId: 'm' })],
    ['an id that the record has not', /another message id/, ({ a }) => Object.assign(a, { messageId: 'm' })],
    ['a message of no file', /which has no record/, ({ message }) => Object.assign(message, { fileId: 'x' })],
    ['a message of another path', /another path/, ({ message }) => Object.assign(message, { path: '/b' })],
    ['a message of another object', /another object/, ({ message }) => Object.assign(message, { told: 'x' })],
    [
      'a message of another kind',
      /its message is text/,
      ({ message }) => Object.assign(message, { contentType: 'text' })
    ],
    [
      'a message ahead of its object',
      /came before its object/,
      ({ message }) => Object.assign(message, { receivedAt: T })
    ],
    ['a lock, slot, lease or file', /a slot was left/, ({ snapshot }) => snapshot.leftovers.push('a slot was left')],
    [
      'a secret',
      /a secret is in the log/,
      ({ snapshot }) => Object.assign(snapshot.texts, { 'the log': 'with s3cret' })
    ]
  ])('reports %s', (_, sentence, damage) => {
    for (const rules of [strict, loose]) {
      const run = sound()
      damage(run)
      expect(judge(run.snapshot, rules).problems).toContainEqual(expect.stringMatching(sentence))
    }
  })

  test('reports one id for two files', () => {
    const { snapshot, a, b, message } = sound()
    Object.assign(b, { messageId: a.messageId })
    Object.assign(snapshot.messages[1]!, { messageId: message.messageId, eventId: message.eventId })
    expect(judge(snapshot, strict).problems).toEqual(['two files were announced under one id'])
  })

  test('counts repeats of a message, and permits them', () => {
    const { snapshot, message } = sound()
    snapshot.messages.push(message, message)
    expect(judge(snapshot, strict)).toEqual({ problems: [], duplicates: 2 })
  })
})

describe('the checker of a run in which files change', () => {
  test('permits what rests with a reason, and a source that changed after it was stored', () => {
    const { snapshot, a, source } = sound()
    source.contents.push(contentOf('changed since'))
    const { object, messageId } = { object: null, messageId: null }
    const history = a.history.slice(0, 2)
    const skipped = recordOf('/skipped', contentOf('s'), {
      status: 'skipped',
      why: 'too large',
      object,
      messageId,
      history: [...history, { at: T + 500, status: 'skipped' }]
    })
    const vanished = recordOf('/gone', contentOf('g'), {
      status: 'vanished',
      object,
      messageId,
      history: [...history, { at: T + 500, status: 'vanished' }]
    })
    snapshot.records.push(skipped, vanished)
    snapshot.sources.push(
      { serverId: 's1', path: '/skipped', contents: [contentOf('s')], isThere: true, isTaken: true },
      { serverId: 's1', path: '/gone', contents: [contentOf('g')], isThere: false, isTaken: true }
    )
    expect(judge(snapshot, loose).problems).toEqual([])
    expect(judge(snapshot, strict).problems).not.toEqual([])
  })

  test('reports a change that should have become a version', () => {
    const { snapshot, source } = sound()
    source.contents.push(contentOf('changed since'))
    const { problems } = judge(snapshot, { ...loose, versioned: () => true })
    expect(problems).toEqual(['"/a" has size 12, not 13, or another time'])
  })

  test('reports a vanished file that is there', () => {
    const { snapshot, a } = sound()
    Object.assign(a, {
      status: 'vanished',
      object: null,
      history: [...a.history.slice(0, 2), { at: T + 500, status: 'vanished' }]
    })
    expect(judge(snapshot, loose).problems).toContain('"/a" is vanished, and is on the server')
  })

  test('reports an object that mixes two contents', () => {
    const { snapshot, a, source } = sound()
    source.contents.push(contentOf('changed since', 12))
    snapshot.objects.set(a.object!.key, contentOf('half and half', 12))
    expect(judge(snapshot, loose).problems).toContainEqual(expect.stringMatching(/the object is not the source/))
  })

  test('permits the upload of a file that failed until it is swept, and never that of one that is stored', () => {
    const { snapshot, a } = sound()
    const failed: Partial<CheckedRecord> = { status: 'failed', why: 'no', object: null, messageId: null }
    Object.assign(a, failed, { history: [...a.history.slice(0, 3), { at: T + 500, status: 'failed' }] })
    snapshot.messages.shift()
    snapshot.objects.delete('partner/a')
    snapshot.uploads.push({ key: 'partner/a', uploadId: 'u' })
    expect(judge(snapshot, loose).problems).toEqual([])
    expect(judge(snapshot, { ...loose, isSwept: true }).problems).toEqual([
      '"partner/a": 1 multipart uploads were left'
    ])
    snapshot.uploads.push({ key: 'partner/b', uploadId: 'v' })
    expect(judge(snapshot, loose).problems).toEqual(['"partner/b": 1 multipart uploads were left'])
  })

  test('permits the upload of a refetch that was taken back until it is swept', () => {
    const { snapshot, a } = sound()
    snapshot.uploads.push({ key: 'partner/a', uploadId: 'u' })
    const left = ['"partner/a": 1 multipart uploads were left']
    expect(judge(snapshot, loose).problems).toEqual(left)
    a.history.push({ at: T + 5000, status: 'pending' }, { at: T + 6000, status: a.status })
    expect(judge(snapshot, loose).problems).toEqual([])
    expect(judge(snapshot, { ...loose, isSwept: true }).problems).toEqual(left)
  })

  test('permits the object of a worker that died before its file was gone', () => {
    const { snapshot, b } = sound()
    const history = [...b.history.slice(0, 3), { at: T + 500, status: 'vanished' as const }]
    Object.assign(b, { status: 'vanished', object: null, messageId: null, history })
    snapshot.messages.pop()
    Object.assign(snapshot.sources[1]!, { isThere: false })
    expect(judge(snapshot, loose).problems).toEqual([])
  })
})
