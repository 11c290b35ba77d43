/** The closed vocabulary of what an agent tells people; each comes with one clear sentence. */
export const eventKinds = {
  agentLedgerLost: 'agent.ledger-lost',
  leftoverRemoved: 'agent.leftover-removed',
  eventsLeftOut: 'agent.events-left-out',
  artifactFetched: 'artifact.fetched',
  taskPrepareFailed: 'task.prepare-failed',
  taskStarted: 'task.started',
  taskStartFailed: 'task.start-failed',
  taskExited: 'task.exited',
  taskVanished: 'task.vanished',
  taskOutOfMemory: 'task.out-of-memory',
  taskRestarting: 'task.restarting',
  taskHealthy: 'task.healthy',
  taskUnhealthy: 'task.unhealthy',
  taskFailed: 'task.failed',
  removeFailed: 'allocation.remove-failed',
} as const
export type EventKind = (typeof eventKinds)[keyof typeof eventKinds]
