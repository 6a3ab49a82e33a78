/**
 * The 30 seconds of a stop, counted from SIGTERM. Whatever has no time of its own here has to fit into what is left.
 *
 *   0 s    every service hears that the node leaves: nothing more is claimed, no file and no part of a large one is begun
 *   22 s   what is on its way has ended by itself until now, its leases renewed; what has not is cut, and read again
 *   25 s   what was cut has been handed back, or its lease runs out; one last call may wait for its answer until 30 s
 *   30 s   confirmations are recorded, databases and connections closed; a process that still runs ends itself with 1
 *
 * Over one connection to a near server up to four parts of 16 MiB travel side by side, and fewer once these took over 10 s
 * (`drivers/lanes.ts`). They have to be read and stored within the 22 s, for which 3 MiB a second are the least. Where a
 * process gets less done, as on a machine with twenty times the work that it has cores for, what was cut is read again.
 */
export const STOP_MS = 30_000

/** For what is on its way: what was begun at the last moment has this time to end. */
export const UNDER_WAY_MS = 22_000

/** After that, for telling what was cut: so long a call that found nobody is repeated. */
export const HAND_BACK_MS = 3_000

/** For the calls that a service is answering when it is stopped: no caller waits longer for its answer than this. */
export const RUNNING_CALLS_MS = 5_000
