/**
 * What to do about one allocation: what is wanted of it × how far it is here → one step. Pure, and complete: an
 * unanswered pair does not compile. The same table serves a new assignment, a restart of the agent and a removal.
 */
export const wanteds = ['run', 'stop', 'gone'] as const
/** `gone`: the control plane no longer names it. */
export type Wanted = (typeof wanteds)[number]

export const heres = ['absent', 'alive', 'ending', 'ended', 'removing'] as const
/** `absent` nothing known, `alive` on its way or running, `ending` being stopped, `ended` for good, `removing` being forgotten. */
export type Here = (typeof heres)[number]

export type Step =
  /** Write it down and bring it up. */
  | 'begin'
  /** Never begun and not wanted: say that it is stopped, so that its slot is free. */
  | 'settle'
  /** Take over what may change while it runs, such as a newer generation. */
  | 'update'
  | 'stop'
  /** Stop it, and remove it once it has ended. */
  | 'stop and remove'
  | 'remove'
  | 'nothing'

/** An allocation that ended is never begun again, and one that is ending is not called back: trying again is a new one. */
const steps: Record<Wanted, Record<Here, Step>> = {
  run: { absent: 'begin', alive: 'update', ending: 'nothing', ended: 'nothing', removing: 'nothing' },
  stop: { absent: 'settle', alive: 'stop', ending: 'nothing', ended: 'nothing', removing: 'nothing' },
  gone: {
    absent: 'nothing',
    alive: 'stop and remove',
    ending: 'stop and remove',
    ended: 'remove',
    removing: 'nothing',
  },
}

export function planStep(wanted: Wanted, here: Here): Step {
  return steps[wanted][here]
}
