import { z } from 'zod'
import { Name, TokenId } from '../model/ids.ts'
import { type AccessToken, accessRoles, type JoinToken } from '../model/records.ts'
import { endpoint } from './endpoint.ts'
import { Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicToken = z
  .object({
    id: TokenId,
    name: z.string(),
    roles: z.array(z.enum(accessRoles)),
    createdAt: Time,
    expiresAt: Time.nullable(),
  })
  .meta({ id: 'Token' })
export type PublicToken = z.infer<typeof PublicToken>

export function publicToken({ id, name, roles, createdAt, expiresAt }: AccessToken): PublicToken {
  return { id, name, roles, createdAt, expiresAt }
}

export const PublicJoinToken = z
  .object({
    id: TokenId,
    name: z.string(),
    createdAt: Time,
    expiresAt: Time,
    usesLeft: z.int().nullable(),
    labels: z.record(z.string(), z.string()),
  })
  .meta({ id: 'JoinToken' })
export type PublicJoinToken = z.infer<typeof PublicJoinToken>

export function publicJoinToken({ id, name, createdAt, expiresAt, usesLeft, labels }: JoinToken): PublicJoinToken {
  return { id, name, createdAt, expiresAt, usesLeft, labels }
}

const year = 366 * 86_400_000
const Secret = z.string().meta({ description: 'The whole token. Shown this once.' })
const params = z.strictObject({ token: Name.meta({ description: 'Its name or its id.' }) })

export const tokenEndpoints = {
  listTokens: endpoint({
    ...routes.listTokens,
    role: 'admin:read',
    summary: 'Lists service accounts.',
    answer: z.object({ tokens: z.array(PublicToken) }),
    faults: [],
  }),
  createToken: endpoint({
    ...routes.createToken,
    role: 'admin:write',
    summary: 'Creates a service account and its token.',
    body: z.strictObject({
      name: Name,
      roles: z.array(z.enum(accessRoles)).min(1).max(accessRoles.length),
      expiresInMs: z
        .int()
        .positive()
        .max(10 * year)
        .nullable()
        .default(null)
        .meta({ description: 'Null: it does not expire.' }),
    }),
    answer: z.object({ token: PublicToken, secret: Secret }),
    faults: ['conflict'],
  }),
  revokeToken: endpoint({
    ...routes.revokeToken,
    role: 'admin:write',
    summary: 'Revokes a service account; its token is worthless at once.',
    params,
    faults: ['not_found'],
  }),
  listJoinTokens: endpoint({
    ...routes.listJoinTokens,
    role: 'admin:read',
    summary: 'Lists join tokens.',
    answer: z.object({ tokens: z.array(PublicJoinToken) }),
    faults: [],
  }),
  createJoinToken: endpoint({
    ...routes.createJoinToken,
    role: 'admin:write',
    summary: 'Creates a token with which machines join.',
    body: z.strictObject({
      name: Name.optional().meta({ description: 'By default one is made up.' }),
      expiresInMs: z.int().positive().max(year).default(3_600_000),
      uses: z.int().positive().max(100_000).nullable().default(1).meta({ description: 'Null: any number.' }),
      labels: z
        .record(z.string().min(1).max(63), z.string().max(255))
        .refine((labels) => Object.keys(labels).length <= 100, 'at most 100 labels')
        .default({})
        .meta({ description: 'Given to each node that joins with it.' }),
    }),
    answer: z.object({ token: PublicJoinToken, secret: Secret }),
    faults: ['conflict'],
  }),
  revokeJoinToken: endpoint({
    ...routes.revokeJoinToken,
    role: 'admin:write',
    summary: 'Revokes a join token; nodes that joined with it stay.',
    params,
    faults: ['not_found'],
  }),
}
