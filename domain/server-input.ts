/** What a client may say of a server: checked here, once, for REST and for every other way in. */
import { z } from 'zod'
import { ALGORITHM_KINDS, type AlgorithmKind, knownAlgorithms } from './algorithms.ts'
import { IngestError } from './errors.ts'
import { createFilter, DEFAULT_TEMP_PATTERNS } from './filter.ts'
import { DEFAULT_KEY_TEMPLATE, templateFault } from './key-template.ts'
import type { MarkerPolicy } from './marker.ts'
import { ORDERS } from './order.ts'
import { DEFAULT_TIMEZONE, nextTick, type Schedule, scheduleProblem } from './schedule.ts'
import { changedSchedule, movedInto, type SecretField, type ServerRecord } from './server.ts'

const pattern = z
  .string()
  .min(1)
  .max(256)
  .refine((text) => (text.match(/[*?{([]/g) ?? []).length <= 16, 'has more than 16 wildcards')
const patterns = z.array(pattern).max(100)
const root = z
  .string()
  .max(1024)
  .regex(/^\//, 'must be an absolute path on the server, such as /outgoing')
  .refine((path) => !path.includes('\0'), 'must not contain NUL')
/** Less would not carry one block of a file in a few seconds. */
const MIN_BANDWIDTH = 64 * 1024
const algorithms = z.strictObject(
  Object.fromEntries(ALGORITHM_KINDS.map((kind) => [kind, algorithmNames(kind).optional()])) as Record<
    AlgorithmKind,
    z.ZodOptional<ReturnType<typeof algorithmNames>>
  >
)
const keyTemplate = z.string().superRefine((template, context) => {
  const fault = templateFault(template)
  if (fault) context.addIssue({ code: 'custom', message: fault })
})
/** Part of a file's name, such as the `.done` of a marker. */
const namePart = z
  .string()
  .min(1)
  .max(64)
  .regex(/^[^/\0]*$/, 'must be part of a name, without a slash')
/** One that begins with a letter would make markers of ordinary files, as `done` would of `abandoned`. */
const suffix = namePart.regex(/^[^\p{L}\p{N}]/u, 'must begin with a sign, such as the dot of .done')
const extension = namePart.regex(/^\./, 'must begin with a dot, such as .done')
const markerFile = namePart.regex(/^(?!\.{1,2}$)/, 'must be the name of a file')
const markerWays = { suffix: suffix.optional(), extension: extension.optional(), file: markerFile.optional() }
const settle = z
  .strictObject({ checks: z.int().min(1).max(10), seconds: z.number().min(0).max(86_400) })
  .refine(({ checks, seconds }) => checks > 1 || seconds === 0, {
    path: ['checks'],
    message: 'must be at least 2 where seconds is not 0: one look does not last'
  })
const marker = z
  .strictObject(markerWays)
  .refine((ways) => Object.values(ways).filter((way) => way !== undefined).length === 1, {
    message: 'must have one of suffix (a.csv waits for a.csv.done), extension (a.done) and file (one for a folder)'
  })
  .transform((ways) => ways as MarkerPolicy)
const moveFolder = z
  .string()
  .min(1)
  .max(1024)
  .refine((path) => !path.includes('\0'), 'must not contain NUL')
  .refine((path) => !path.split('/').some((name) => name === '.' || name === '..'), 'must not contain . or .. folders')
  .transform((path) => path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1'))
  .refine((path) => path !== '/', 'must name a folder, absolute or below the root')
const fields = {
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'must be 1 to 63 letters, digits, dots, dashes or underscores'),
  host: z
    .string()
    .min(1)
    .max(253)
    .regex(/^[A-Za-z0-9.:_-]+$/, 'must be a host name or an IP address'),
  port: z.int().min(1).max(65535),
  username: z
    .string()
    .min(1)
    .max(255)
    .regex(/^\P{Cc}*$/u, 'must not contain control characters'),
  password: z.string().min(1).max(1024),
  privateKey: z.string().min(1).max(16_384),
  passphrase: z.string().min(1).max(1024),
  hostKey: z
    .string()
    .regex(/^SHA256:[A-Za-z0-9+/]{43}$/, 'must be "SHA256:" and 43 characters, as ssh-keygen -lf prints it'),
  roots: z.array(root).min(1).max(50).superRefine(refuseOverlap),
  recursive: z.boolean(),
  maxDepth: z.int().min(0).max(64),
  symlinks: z.enum(['skip', 'follow']),
  include: patterns,
  exclude: patterns,
  tempPatterns: patterns,
  interval: z
    .number()
    .min(1)
    .max(7 * 86_400)
    .nullable(),
  cron: z.string().min(1).max(256).nullable(),
  timezone: z.string().min(1).max(64).nullable(),
  settle,
  minAge: z
    .number()
    .min(0)
    .max(30 * 86_400),
  marker: marker.nullable(),
  emptyFiles: z.enum(['take', 'skip']),
  maxSize: z.int().min(1, 'must be at least 1 byte, or null for no limit').nullable(),
  onChange: z.enum(['ignore', 'version']),
  checksum: z.enum(['crc32', 'sha256']),
  afterUpload: z.union([z.enum(['keep', 'delete']), z.strictObject({ move: moveFolder })], {
    error: 'must be "keep", "delete" or {"move": folder}'
  }),
  order: z.enum(ORDERS),
  priority: z.int().min(-100).max(100),
  maxConnections: z.int().min(1).max(64),
  bandwidth: z
    .int()
    .min(MIN_BANDWIDTH, `must be at least ${MIN_BANDWIDTH} bytes a second, or null for no limit`)
    .nullable(),
  algorithms: algorithms.nullable(),
  keyTemplate,
  enabled: z.boolean()
}

const creation = z.strictObject({
  ...fields,
  port: fields.port.default(22),
  password: fields.password.optional(),
  privateKey: fields.privateKey.optional(),
  passphrase: fields.passphrase.optional(),
  hostKey: fields.hostKey.nullable().default(null),
  roots: fields.roots.default(['/']),
  recursive: fields.recursive.default(true),
  maxDepth: fields.maxDepth.default(32),
  symlinks: fields.symlinks.default('skip'),
  include: fields.include.default([]),
  exclude: fields.exclude.default([]),
  tempPatterns: fields.tempPatterns.default(DEFAULT_TEMP_PATTERNS),
  interval: fields.interval.optional(),
  cron: fields.cron.optional(),
  timezone: fields.timezone.optional(),
  settle: fields.settle.default({ checks: 2, seconds: 30 }),
  minAge: fields.minAge.default(0),
  marker: fields.marker.default(null),
  emptyFiles: fields.emptyFiles.default('take'),
  maxSize: fields.maxSize.default(null),
  onChange: fields.onChange.default('ignore'),
  checksum: fields.checksum.default('crc32'),
  afterUpload: fields.afterUpload.default('keep'),
  order: fields.order.default('oldest'),
  priority: fields.priority.default(0),
  maxConnections: fields.maxConnections.default(2),
  bandwidth: fields.bandwidth.default(null),
  algorithms: fields.algorithms.default(null),
  keyTemplate: fields.keyTemplate.default(DEFAULT_KEY_TEMPLATE),
  enabled: fields.enabled.default(true)
})
const update = z.strictObject(fields).partial()

export type ServerInput = Omit<z.infer<typeof creation>, SecretField | keyof Schedule> & Schedule
export type ServerSecrets = Partial<Record<SecretField, string>>

function refuseOverlap(roots: string[], context: z.RefinementCtx): void {
  const folders = roots.map((path) => (path.endsWith('/') ? path : `${path}/`))
  const clash = folders.some((a, i) => folders.some((b, j) => i !== j && a.startsWith(b)))
  if (clash) context.addIssue({ code: 'custom', message: 'must not lie inside each other' })
}

/** One kind's names, in the order of preference. */
function algorithmNames(kind: AlgorithmKind) {
  const known = knownAlgorithms(kind)
  const name = z.string().refine((one) => known.includes(one), `is no ${kind} algorithm; known are ${known.join(', ')}`)
  return z
    .array(name)
    .min(1)
    .max(known.length)
    .refine((names) => new Set(names).size === names.length, 'names one twice')
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body, { reportInput: true })
  if (result.success) return result.data
  const errors = result.error.issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({ field: [...issue.path, key].join('.'), message: 'is not a field of a server' }))
    }
    const missing = issue.code === 'invalid_type' && issue.input === undefined && issue.path.length > 0
    return [{ field: issue.path.join('.') || 'body', message: missing ? 'is required' : issue.message }]
  })
  throw invalid(errors)
}

function invalid(errors: { field: string; message: string }[]): IngestError {
  const detail = errors.map(({ field, message }) => `${field}: ${message}`).join('; ')
  return new IngestError('INVALID', detail, { data: { errors } })
}

function split<T extends ServerSecrets>(input: T): { input: Omit<T, SecretField>; secrets: ServerSecrets } {
  const { password, privateKey, passphrase, ...rest } = input
  const secrets = { password, privateKey, passphrase }
  const given = Object.fromEntries(Object.entries(secrets).filter(([, value]) => value !== undefined))
  return { input: rest, secrets: given }
}

function checkPatterns(input: { include?: string[]; exclude?: string[]; tempPatterns?: string[] }): void {
  for (const field of ['include', 'exclude', 'tempPatterns'] as const) {
    try {
      const none = { include: [], exclude: [], tempPatterns: [], emptyFiles: 'take' as const, maxSize: null }
      createFilter({ ...none, [field]: input[field] ?? [] })
    } catch (error) {
      throw invalid([{ field, message: `has a pattern that cannot be read: ${(error as Error).message}` }])
    }
  }
}

/** A new server. INVALID, with `errors[]` naming each field, for anything that is not in the contract. */
export function parseNewServer(body: unknown): { input: ServerInput; secrets: ServerSecrets } {
  const parsed = parse(creation, body)
  if ((parsed.password === undefined) === (parsed.privateKey === undefined)) {
    throw invalid([{ field: 'password', message: 'is required, or privateKey, and not both' }])
  }
  if (parsed.passphrase !== undefined && parsed.privateKey === undefined) {
    throw invalid([{ field: 'passphrase', message: 'goes with privateKey' }])
  }
  checkPatterns(parsed)
  checkExclusive(parsed)
  const { input, secrets } = split({ ...parsed, ...changedSchedule(NO_SCHEDULE, parsed) })
  checkServer({ ...input, timezone: input.timezone ?? parsed.timezone ?? null })
  return { input, secrets }
}

/** A change of some fields; the same errors. */
export function parseServerUpdate(body: unknown): { input: Partial<ServerInput>; secrets: ServerSecrets } {
  const parsed = parse(update, body)
  if (parsed.password !== undefined && parsed.privateKey !== undefined) {
    throw invalid([{ field: 'password', message: 'or privateKey, not both' }])
  }
  if (parsed.password !== undefined && parsed.passphrase !== undefined) {
    throw invalid([{ field: 'passphrase', message: 'goes with privateKey' }])
  }
  checkPatterns(parsed)
  checkExclusive(parsed)
  const { cron, timezone } = parsed
  if (cron || timezone) checkSchedule(cron ?? '* * * * *', timezone ?? DEFAULT_TIMEZONE)
  return split(parsed)
}

const NO_SCHEDULE: Schedule = { interval: null, cron: null, timezone: null }

function checkExclusive({ interval, cron }: Partial<Schedule>): void {
  if (typeof interval === 'number' && cron) {
    throw invalid([{ field: 'cron', message: 'or interval, not both' }])
  }
}

function checkSchedule(cron: string, timezone: string): void {
  const problem = scheduleProblem(cron, timezone)
  if (problem) throw invalid([problem])
}

/** What fields must be together: of a new server, and of a changed one as a whole. INVALID, naming the field. */
export function checkServer(server: Schedule & Pick<ServerRecord, 'roots' | 'afterUpload'>): void {
  if (server.cron) checkSchedule(server.cron, server.timezone ?? DEFAULT_TIMEZONE)
  else if (server.timezone) throw invalid([{ field: 'timezone', message: 'goes with cron' }])
  const folder = typeof server.afterUpload === 'object' ? server.afterUpload.move : ''
  const isAround = (root: string) => `${root.replace(/\/$/, '')}/`.startsWith(`${folder}/`)
  if (folder.startsWith('/') && server.roots.some(isAround)) {
    throw invalid([{ field: 'afterUpload', message: 'must not move files into a folder that holds a root' }])
  }
}

/** The record of a new server; its first scan is due at once, or at the first tick of its cron expression. `secrets` are sealed. */
export function newServer(id: string, input: ServerInput, secrets: ServerRecord['secrets'], now: number): ServerRecord {
  return {
    ...input,
    movedInto: movedInto({}, input.afterUpload),
    _id: id,
    revision: 0,
    edition: 1,
    secrets,
    state: input.enabled ? 'active' : 'paused',
    lastError: null,
    failures: 0,
    nextScanAt: input.cron ? nextTick(input, now, 0) : now,
    nextTickAt: now,
    scanEpoch: 0,
    scanLeaseUntil: 0,
    lastScanner: null,
    generation: 1,
    lastScanAt: null,
    lastScan: null,
    slots: [],
    slotWantedUntil: 0,
    deletedAt: null,
    createdAt: now,
    updatedAt: now
  }
}
