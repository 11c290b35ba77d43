import type { SandboxId } from '../../model/ids.ts'
import type { Tx, View } from '../../store/store.ts'

/**
 * What was given at create for every command, and may be secret. It has to be had wherever the sandbox goes on, so it is
 * stored as that of jobs is, but in a table of its own that no answer, watch, event or audit record shows; and it goes
 * with the commit that ends the sandbox.
 */
export function putEnvironment(tx: Tx, sandbox: SandboxId, env: Record<string, string>): void {
  if (Object.keys(env).length > 0) tx.put('sandboxEnvironments', { sandbox, env })
}

export function environmentOf(view: Pick<View, 'get'>, sandbox: SandboxId): Record<string, string> {
  return view.get('sandboxEnvironments', sandbox)?.env ?? {}
}

export function dropEnvironment(tx: Tx, sandbox: SandboxId): void {
  tx.delete('sandboxEnvironments', sandbox)
}
