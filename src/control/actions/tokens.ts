import { createHash, timingSafeEqual } from 'node:crypto'
import { Fault } from '../../model/fault.ts'
import type { TokenId } from '../../model/ids.ts'
import type { AccessRole, AccessToken, JoinToken } from '../../model/records.ts'
import type { Tx, View } from '../../store/store.ts'
import { type Control, newId } from '../control.ts'
import { addAudit, addEvent } from '../marks.ts'

/**
 * Tokens are `tutti_<id>_<secret>` for service accounts and `tuttijoin_<id>_<secret>_<fingerprint>` for machines that
 * join; the fingerprint is that of the certificate authority, so that the joining side knows whom it talks to.
 * Only a hash of the secret is stored, and the token is shown once.
 */

interface Asked {
  by: string
}

export async function createAccessToken(
  control: Control,
  { by, name, roles, expiresInMs }: Asked & { name: string; roles: AccessRole[]; expiresInMs: number | null },
): Promise<{ row: AccessToken; token: string }> {
  const id = newId(control) as TokenId
  const secret = newSecret(control)
  const { result } = await control.store.write((tx) => {
    for (const other of tx.all('accessTokens')) {
      if (other.name === name)
        throw new Fault('conflict', `a token named "${name}" exists already; revoke it first, or choose another name`)
    }
    const expiresAt = expiresInMs === null ? null : tx.now + expiresInMs
    const row: AccessToken = { id, name, roles, hash: hashSecret(secret), createdAt: tx.now, expiresAt }
    tx.put('accessTokens', row)
    addAudit(tx, { by, action: 'token.create', subject: name })
    return row
  })
  return { row: result, token: `tutti_${id}_${secret}` }
}

export async function createJoinToken(
  control: Control,
  options: Asked & {
    name: string
    expiresInMs: number
    uses: number | null
    labels: Record<string, string>
    caFingerprint: string
  },
): Promise<{ row: JoinToken; token: string }> {
  const id = newId(control) as TokenId
  const secret = newSecret(control)
  const { result } = await control.store.write((tx) => {
    const row: JoinToken = {
      id,
      name: options.name,
      hash: hashSecret(secret),
      createdAt: tx.now,
      expiresAt: tx.now + options.expiresInMs,
      usesLeft: options.uses,
      labels: options.labels,
    }
    tx.put('joinTokens', row)
    addAudit(tx, { by: options.by, action: 'join-token.create', subject: options.name })
    return row
  })
  return { row: result, token: `tuttijoin_${id}_${secret}_${options.caFingerprint}` }
}

/** A service account's token, or a join token, by its id or name. */
export async function revokeToken(
  control: Control,
  table: 'accessTokens' | 'joinTokens',
  idOrName: string,
  { by }: Asked,
): Promise<void> {
  await control.store.write((tx) => {
    for (const row of [...tx.all(table)]) {
      if (row.id !== idOrName && row.name !== idOrName) continue
      tx.delete(table, row.id)
      addAudit(tx, { by, action: 'token.revoke', subject: row.name })
      return
    }
    throw new Fault('not_found', `there is no token "${idOrName}"; "tutti token list" shows them`)
  })
}

export interface Caller {
  name: string
  roles: readonly AccessRole[]
}

/** Who holds this token; a Fault `unauthenticated` says why nobody does. */
export function authenticate(view: View, token: string, now: number): Caller {
  const match = /^tutti_([0-9a-z]{16})_([\w-]{43})$/.exec(token)
  const row = match ? view.get('accessTokens', match[1] ?? '') : undefined
  if (!match || !row || !isSecretOf(row, match[2] ?? '')) {
    throw new Fault(
      'unauthenticated',
      'the token is not known here; it may have been revoked, or belong to another cluster',
    )
  }
  if (row.expiresAt !== null && row.expiresAt <= now) {
    throw new Fault(
      'unauthenticated',
      `the token "${row.name}" expired at ${new Date(row.expiresAt).toISOString()}; create a new one with "tutti token create"`,
    )
  }
  return row
}

/** The secret that last proved right for a row: a busy client's token is hashed once, not with every request. */
const proven = new WeakMap<AccessToken, string>()

function isSecretOf(row: AccessToken, secret: string): boolean {
  const before = proven.get(row)
  if (before !== undefined && timingSafeEqual(Buffer.from(before), Buffer.from(secret))) return true
  const isRight = sameHash(row.hash, secret)
  if (isRight) proven.set(row, secret)
  return isRight
}

/** Takes one use off a join token, or throws the reason why it buys nothing. */
export function spendJoinToken(tx: Tx, token: string): JoinToken {
  const match = /^tuttijoin_([0-9a-z]{16})_([\w-]{43})_([0-9a-f]{64})$/.exec(token)
  const row = match ? tx.get('joinTokens', match[1] ?? '') : undefined
  const remedy = 'create a new one with "tutti token create --join"'
  if (!match || !row || !sameHash(row.hash, match[2] ?? '')) {
    throw new Fault(
      'unauthenticated',
      `the join token is not known here; it may have been revoked or used up: ${remedy}`,
    )
  }
  if (row.expiresAt <= tx.now)
    throw new Fault('unauthenticated', `the join token expired at ${new Date(row.expiresAt).toISOString()}; ${remedy}`)
  if (row.usesLeft !== null && row.usesLeft <= 0)
    throw new Fault('unauthenticated', `the join token has been used up; ${remedy}`)
  const left = row.usesLeft === null ? null : row.usesLeft - 1
  tx.put('joinTokens', { ...row, usesLeft: left })
  addEvent(tx, {
    level: 'info',
    kind: 'join-token.used',
    message: `join token "${row.name}" was used${left === null ? '' : `; ${left} uses are left`}`,
  })
  return row
}

function newSecret(control: Control): string {
  return Buffer.from(control.random.bytes(32)).toString('base64url')
}

function hashSecret(secret: string): string {
  return createHash('sha256').update(secret).digest('hex')
}

function sameHash(hash: string, secret: string): boolean {
  return timingSafeEqual(Buffer.from(hash, 'hex'), createHash('sha256').update(secret).digest())
}
