/** How Longshore proves who it is: each secret is shown once, so that no account is locked out by our trying. */
import type { AnyAuthMethod, ParsedKey } from 'ssh2'
import { IngestError } from '../../domain/errors.ts'
import { readPrivateKey } from './private-key.ts'
import type { SftpTarget } from './sftp.ts'

/** ssh2 takes `false` for "nothing left"; its types do not say so. */
type Next = (method: AnyAuthMethod | false) => void
type Method = 'publickey' | 'password' | 'keyboard-interactive'

/** ssh2's `authHandler`; the first two are null when nothing was tried yet. */
export type AuthHandler = (methodsLeft: string[] | null, partialSuccess: boolean | null, next: Next) => void

/**
 * The order in which a target's secrets are tried, as ssh2's `authHandler`. It first asks without any secret, which
 * servers do not count, to learn what they take. A password goes by "password" or by "keyboard-interactive", never both.
 */
export function authentication(target: SftpTarget, refuse: (error: IngestError) => void): AuthHandler {
  const { username, password } = target
  const key = target.privateKey === undefined ? null : openKey(target)
  const tried = new Set<Method>()
  let asked = false

  return (methodsLeft, _partialSuccess, next) => {
    if (!asked) {
      asked = true
      return next({ type: 'none', username })
    }
    const takes = (method: Method) => !tried.has(method) && (!methodsLeft?.length || methodsLeft.includes(method))

    if (key && takes('publickey')) {
      tried.add('publickey')
      return next({ type: 'publickey', username, key })
    }
    const passwordShown = tried.has('password') || tried.has('keyboard-interactive')
    if (password === undefined || passwordShown) return next(false)
    if (takes('password')) {
      tried.add('password')
      return next({ type: 'password', username, password })
    }
    if (takes('keyboard-interactive')) {
      tried.add('keyboard-interactive')
      return next({ type: 'keyboard-interactive', username, prompt: answerOnce(password, refuse) })
    }
    next(false)
  }
}

/** Answers one question with the password; a second one means that it was wrong, or that more than a password is asked. */
function answerOnce(password: string, refuse: (error: IngestError) => void) {
  let answered = false
  return (_name: string, _text: string, _language: string, prompts: unknown[], finish: (answers: string[]) => void) => {
    if (prompts.length === 0) return finish([])
    if (!answered && prompts.length === 1) {
      answered = true
      return finish([password])
    }
    refuse(
      new IngestError(
        'SFTP_AUTH_FAILED',
        answered
          ? 'The server asked for the password again; check it, and that it asks for no second factor.'
          : `The server asks ${prompts.length} questions at once to log in; Longshore can answer only one, the password.`
      )
    )
  }
}

function openKey({ privateKey, passphrase }: SftpTarget): ParsedKey {
  const read = readPrivateKey(privateKey!, passphrase)
  if ('key' in read) return read.key
  const { field, message } = read.fault
  throw new IngestError('SFTP_AUTH_FAILED', `The private key cannot be used: ${field} ${message}.`)
}
