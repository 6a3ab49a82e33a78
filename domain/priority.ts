/** Which servers come first: those of a higher priority, and of one priority in the order in which they are given. */

/** By server's id; those that are not named have 0. */
export type Priorities = Record<string, number>

export function byPriority(servers: string[], priorities: Priorities): string[] {
  const of = (id: string) => priorities[id] ?? 0
  return [...new Set(servers)].sort((a, b) => of(b) - of(a))
}

/** Servers that go before all that have no priority, the highest first. */
export function urgentOf(priorities: Priorities): string[] {
  return byPriority(
    Object.keys(priorities).filter((id) => priorities[id]! > 0),
    priorities
  )
}
