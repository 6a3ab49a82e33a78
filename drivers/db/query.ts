/**
 * The queries of `collection.ts`, made into functions over documents in memory. A query is looked through once, not
 * for each document: a claim may pass over a whole backlog.
 */
import { isDeepStrictEqual } from 'node:util'
import type { FindOptions, Query } from './collection.ts'

type Test = (document: object) => boolean

/** Whether a document matches. As in MongoDB a value of an array matches by its items too; a missing field never equals null. */
export function matcher(query: Query): Test {
  const tests = Object.entries(query).map(([field, wanted]) => testOf(field, wanted))
  return (document) => tests.every((test) => test(document))
}

/** The documents that match, sorted and cut to the limit; those of the store itself, not copies. */
export function select<T extends object>(documents: Iterable<T>, query: Query, options: FindOptions = {}): T[] {
  const matches = matcher(query)
  const { sort, limit } = options
  const order = sort ? comparator(sort) : null
  const found: T[] = []
  for (const document of documents) {
    if (!matches(document)) continue
    if (!order || !limit) found.push(document)
    // Only as many as are wanted are kept in order: a backlog is never sorted for its first few.
    else if (found.length < limit || order(document, found.at(-1)!) < 0) {
      place(found, document, order)
      if (found.length > limit) found.pop()
    }
    if (!order && found.length === limit) break
  }
  return order && !limit ? found.sort(order) : found
}

/** Values that a query wants a field to equal, one of them; null where the query says nothing like that of the field. */
export function wantedValues(query: Query, field: string): unknown[] | null {
  if (Object.hasOwn(query, field)) {
    const wanted = query[field]
    if (isScalar(wanted)) return [wanted]
    const { $in } = (isOperators(wanted) ? wanted : {}) as { $in?: unknown[] }
    if ($in?.every(isScalar)) return $in
  }
  for (const inner of (query.$and as Query[] | undefined) ?? []) {
    const values = wantedValues(inner, field)
    if (values) return values
  }
  return null
}

/** Whether a query compares a field by order, which nothing matches that lacks the field. */
export function wantsOrder(query: Query, field: string): boolean {
  const wanted = query[field]
  return isOperators(wanted) && Object.keys(wanted).some((operator) => /^\$[lg]te?$/.test(operator))
}

/** Reads a field by its path, such as `announcement.status`. */
export function reader(field: string): (document: object) => unknown {
  if (!field.includes('.')) return (document) => (document as Record<string, unknown>)[field]
  const names = field.split('.')
  return (document) => names.reduce<unknown>((at, name) => (at as Record<string, unknown> | null)?.[name], document)
}

export function comparator(sort: Record<string, 1 | -1>): (a: object, b: object) => number {
  const criteria = Object.entries(sort).map(([field, direction]) => ({ read: reader(field), direction }))
  return (a, b) => {
    for (const { read, direction } of criteria) {
      const order = compare(read(a), read(b))
      if (order !== 0) return order * direction
    }
    return 0
  }
}

function place<T extends object>(sorted: T[], document: T, order: (a: object, b: object) => number): void {
  let [low, high] = [0, sorted.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (order(document, sorted[middle]!) < 0) high = middle
    else low = middle + 1
  }
  sorted.splice(low, 0, document)
}

function testOf(field: string, wanted: unknown): Test {
  if (field === '$and' || field === '$or') {
    const inner = (wanted as Query[]).map(matcher)
    if (field === '$and') return (document) => inner.every((test) => test(document))
    return (document) => inner.some((test) => test(document))
  }
  const read = reader(field)
  const value = valueTest(wanted)
  return (document) => value(read(document))
}

function valueTest(wanted: unknown): (value: unknown) => boolean {
  if (wanted instanceof RegExp) return some((value) => typeof value === 'string' && wanted.test(value))
  if (!isOperators(wanted)) return some((value) => isEqual(value, wanted))
  const tests = Object.entries(wanted as object).map(([operator, operand]) => operatorTest(operator, operand))
  return (value) => tests.every((test) => test(value))
}

function operatorTest(operator: string, operand: unknown): (value: unknown) => boolean {
  switch (operator) {
    case '$in': {
      const wanted = new Set(operand as unknown[])
      return some((value) => wanted.has(value))
    }
    case '$ne': {
      const equals = some((value) => isEqual(value, operand))
      return (value) => !equals(value)
    }
    case '$exists':
      return (value) => (value !== undefined) === operand
    case '$lt':
      return ordered(operand, (order) => order < 0)
    case '$lte':
      return ordered(operand, (order) => order <= 0)
    case '$gt':
      return ordered(operand, (order) => order > 0)
    case '$gte':
      return ordered(operand, (order) => order >= 0)
  }
  throw new Error(`the embedded database does not know ${operator}`)
}

/** Nothing but strings among strings and numbers among numbers has an order. */
function ordered(operand: unknown, holds: (order: number) => boolean): (value: unknown) => boolean {
  const type = typeof operand
  return some((value) => typeof value === type && value !== null && holds(compare(value, operand)))
}

function some(test: (value: unknown) => boolean): (value: unknown) => boolean {
  return (value) => (Array.isArray(value) ? test(value) || value.some(test) : test(value))
}

function isEqual(value: unknown, wanted: unknown): boolean {
  return value === wanted || (typeof wanted === 'object' && wanted !== null && isDeepStrictEqual(value, wanted))
}

/** Whether a query means by this value that a field equals it. */
export function isScalar(value: unknown): boolean {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
}

function isOperators(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.keys(value)[0]?.startsWith('$') === true
}

/** As MongoDB sorts them: missing and null first, then numbers, strings, booleans. */
const ranks = ['undefined', 'object', 'number', 'string', 'boolean']

export function compare(a: unknown, b: unknown): number {
  if (typeof a !== typeof b) return ranks.indexOf(typeof a) - ranks.indexOf(typeof b)
  if (a === b) return 0
  return (a as number) < (b as number) ? -1 : (a as number) > (b as number) ? 1 : 0
}
