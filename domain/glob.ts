/**
 * Name patterns, matched in time linear in name × pattern whatever both are: names are the partner's, and a regular
 * expression made of `*a*a*a*b` takes seconds for one hostile name. All places of the pattern that a name may have
 * reached are followed side by side (Thompson, "Regular expression search algorithm", CACM 1968), so nothing backtracks.
 *
 *   *  any run within a folder     **  as a whole segment: any folders     ?  one character
 *   [a-z] [!a-z]  one of, none of  {a,b}  either                          \  takes the next one as it is
 */
type Step =
  | { kind: 'one'; accepts: (character: string) => boolean }
  | { kind: 'run' }
  /** `**` before a slash: whole folders. Two steps: at the border of a folder, and inside its name. */
  | { kind: 'folders' }
  | { kind: 'folderName' }
  | { kind: 'rest' }

const MAX_ALTERNATIVES = 256

/** Throws a plain Error that says what is wrong with the pattern. */
export function compileGlob(pattern: string): (text: string) => boolean {
  if (pattern.startsWith('!')) throw new Error('a leading ! is not supported; use exclude, or \\! for the character')
  const all = alternatives(pattern)
  const programs = all.map(parse)
  const simple = all.map(withoutSteps)
  if (simple.every((one) => one !== null)) return (text) => simple.some((matches) => matches(text))
  return (text) => {
    const characters = [...text]
    return programs.some((steps) => accepts(steps, characters))
  }
}

/** Most patterns are a name, or a name with one `*`: no steps are needed for those, and a name costs a tenth. */
function withoutSteps(pattern: string): ((text: string) => boolean) | null {
  if (/[?[\]\\{}]/.test(pattern) || !pattern.isWellFormed()) return null
  const [start = '', end, ...more] = pattern.split('*')
  if (more.length > 0) return null
  if (end === undefined) return (text) => text === start
  return (text) =>
    text.length >= start.length + end.length &&
    text.startsWith(start) &&
    text.endsWith(end) &&
    !text.slice(start.length, text.length - end.length).includes('/')
}

function accepts(steps: Step[], characters: string[]): boolean {
  let here = new Uint8Array(steps.length + 1)
  let next = new Uint8Array(steps.length + 1)
  reach(steps, here, 0)
  for (const character of characters) {
    next.fill(0)
    for (let at = 0; at < steps.length; at++) if (here[at]) advance(steps, next, at, character)
    ;[here, next] = [next, here]
  }
  return here[steps.length] === 1
}

/** Marks a place and those that are reached from it without a character. */
function reach(steps: Step[], places: Uint8Array, at: number): void {
  if (places[at]) return
  places[at] = 1
  const kind = steps[at]?.kind
  if (kind === 'run' || kind === 'rest') reach(steps, places, at + 1)
  if (kind === 'folders') reach(steps, places, at + 2)
}

function advance(steps: Step[], next: Uint8Array, at: number, character: string): void {
  const step = steps[at]!
  const isSlash = character === '/'
  switch (step.kind) {
    case 'one':
      if (step.accepts(character)) reach(steps, next, at + 1)
      break
    case 'run':
      if (!isSlash) reach(steps, next, at)
      break
    case 'rest':
      reach(steps, next, at)
      break
    case 'folders':
      if (!isSlash) reach(steps, next, at + 1)
      break
    case 'folderName':
      reach(steps, next, isSlash ? at - 1 : at)
      break
  }
}

function parse(pattern: string): Step[] {
  const steps: Step[] = []
  const characters = [...pattern]
  const literal = (wanted: string): Step => ({ kind: 'one', accepts: (character) => character === wanted })
  for (let i = 0; i < characters.length; i++) {
    const character = characters[i]!
    if ('*?+@!'.includes(character) && characters[i + 1] === '(') {
      throw new Error(`${character}(…) is not supported; write \\( for the character`)
    }
    if (character === '\\') {
      if (i + 1 === characters.length) throw new Error('a \\ at the end')
      steps.push(literal(characters[++i]!))
    } else if (character === '*') {
      const startsSegment = i === 0 || characters[i - 1] === '/'
      let end = i
      while (characters[end + 1] === '*') end++
      const isDouble = end > i && startsSegment
      if (isDouble && characters[end + 1] === '/') {
        steps.push({ kind: 'folders' }, { kind: 'folderName' })
        end++
      } else steps.push({ kind: isDouble && end + 1 === characters.length ? 'rest' : 'run' })
      i = end
    } else if (character === '?') {
      steps.push({ kind: 'one', accepts: (one) => one !== '/' })
    } else if (character === '[') {
      const end = endOfClass(characters, i)
      steps.push({ kind: 'one', accepts: classOf(characters.slice(i + 1, end)) })
      i = end
    } else steps.push(literal(character))
  }
  return steps
}

/** The place of the `]`; one right at the start is a member. */
function endOfClass(characters: string[], start: number): number {
  let i = start + 1
  if (characters[i] === '!' || characters[i] === '^') i++
  for (let first = true; i < characters.length; i++, first = false) {
    if (characters[i] === '[' && characters[i + 1] === ':') throw new Error('[:…:] is not supported')
    if (characters[i] === '\\') i++
    else if (characters[i] === ']' && !first) return i
  }
  throw new Error('a [ that is not closed; write \\[ for the character')
}

function classOf(inner: string[]): (character: string) => boolean {
  const isNegated = inner[0] === '!' || inner[0] === '^'
  const members: { character: string; escaped: boolean }[] = []
  for (let i = isNegated ? 1 : 0; i < inner.length; i++) {
    const escaped = inner[i] === '\\'
    members.push({ character: inner[escaped ? ++i : i]!, escaped })
  }
  const ranges: [number, number][] = []
  for (let i = 0; i < members.length; i++) {
    const isRange = members[i + 1]?.character === '-' && !members[i + 1]!.escaped && i + 2 < members.length
    const last = isRange ? i + 2 : i
    ranges.push([members[i]!.character.codePointAt(0)!, members[last]!.character.codePointAt(0)!])
    i = last
  }
  return (character) => {
    const point = character.codePointAt(0)!
    return character !== '/' && ranges.some(([from, to]) => from <= point && point <= to) !== isNegated
  }
}

/** The pattern without braces: every choice written out. Braces without a comma are characters. */
function alternatives(pattern: string): string[] {
  const open = firstBraces(pattern)
  if (!open) return [pattern]
  const [head, tail] = [pattern.slice(0, open.start), pattern.slice(open.end + 1)]
  const tails = alternatives(tail)
  const written: string[] = []
  for (const choice of open.choices.flatMap(alternatives)) {
    for (const rest of tails) written.push(head + choice + rest)
    if (written.length > MAX_ALTERNATIVES)
      throw new Error(`braces that stand for more than ${MAX_ALTERNATIVES} patterns`)
  }
  return written
}

function firstBraces(pattern: string): { start: number; end: number; choices: string[] } | null {
  const starts: { at: number; commas: number[] }[] = []
  let outermost: { start: number; end: number; choices: string[] } | null = null
  for (let i = 0; i < pattern.length; i++) {
    const character = pattern[i]
    if (character === '\\') i++
    else if (character === '{') starts.push({ at: i, commas: [] })
    else if (character === ',') starts.at(-1)?.commas.push(i)
    else if (character === '}') {
      const open = starts.pop()
      if (!open) continue
      if (/^\{[^{},]*\.\.[^{},]*\}$/.test(pattern.slice(open.at, i + 1))) throw new Error('{a..b} is not supported')
      if (open.commas.length > 0) {
        const cuts = [open.at, ...open.commas, i]
        const choices = cuts.slice(1).map((cut, n) => pattern.slice(cuts[n]! + 1, cut))
        outermost = { start: open.at, end: i, choices }
      }
      if (starts.length === 0 && outermost) return outermost
    }
  }
  if (starts.length > 0) throw new Error('a { that is not closed; write \\{ for the character')
  return null
}
