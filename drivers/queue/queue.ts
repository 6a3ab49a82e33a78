/** What Longshore needs of a message broker. `rabbit.ts` and `journal.ts` implement it and pass test/contract/queue.contract.ts. */
export interface Message {
  /** The event's id, the same on every resend. */
  messageId: string
  /** A CloudEvents 1.0 JSON document. */
  body: Record<string, unknown>
}

export interface Queue {
  /** Connects and declares; keeps trying to reconnect afterwards, by itself, until `close`. Rejects with QUEUE_UNAVAILABLE when the first try fails (and goes on trying). */
  open(): Promise<void>
  /**
   * Resolves only after the broker has confirmed and routed the message. Rejects with QUEUE_UNAVAILABLE (not connected,
   * blocked, connection lost, no confirm in time), QUEUE_UNROUTABLE (returned) or QUEUE_NACKED.
   */
  publish(message: Message): Promise<void>
  /** Rejects with QUEUE_UNAVAILABLE and the cause when messages cannot be sent now. */
  ping(): Promise<void>
  close(): Promise<void>
}
