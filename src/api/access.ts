import type { Control } from '../control/control.ts'
import { type AuditEntry, addAudit } from '../control/marks.ts'

/** Who went into what; not what was said there. Nobody waits for the record, so that a way in stays quick. */
export function recordAccess({ store, log }: Control, entry: AuditEntry): void {
  store
    .write((tx) => addAudit(tx, entry))
    .catch((error: unknown) => log.error({ err: error }, 'an access could not be recorded'))
}
