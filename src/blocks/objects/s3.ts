import type { S3Client, S3ServiceException } from '@aws-sdk/client-s3'
import { Fault, type FaultCode, sentence } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'
import { bytesOf, rangeIn, tailInTwo } from './body.ts'
import { checkKey } from './keys.ts'
import { refusal } from './refusal.ts'

export interface S3Options {
  bucket: string
  /** Before every key; ends with a slash, or empty. */
  prefix: string
  endpoint?: string | undefined
  region?: string | undefined
  /** Of the user's AWS configuration; without it, whatever the AWS tools would use: environment, files, machine role. */
  profile?: string | undefined
}

/**
 * Objects in a bucket of Amazon S3, or of anything that speaks its protocol: then with an `endpoint`, and the bucket in
 * the path. A put is one request, so it is there whole or not at all.
 */
export async function s3Objects({ bucket, prefix, endpoint, region, profile }: S3Options): Promise<ObjectStore> {
  const aws = await import('@aws-sdk/client-s3')
  const client: S3Client = new aws.S3Client({
    ...(endpoint ? { endpoint, forcePathStyle: true, region: region ?? 'us-east-1' } : region ? { region } : {}),
    ...(profile ? { profile } : {}),
    // Other servers do not know the checksums that Amazon's have learnt.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // Who waits and for how long is decided by the caller; see `retrying`.
    maxAttempts: 2,
  })
  const url = `s3://${bucket}/${prefix}`.replace(/\/$/, '')
  const at = (key: string) => ({ Bucket: bucket, Key: prefix + checkKey(key) })
  const within = (signal: AbortSignal | undefined) => (signal ? { abortSignal: signal } : {})
  const failed = (verb: string, key: string, error: unknown): never => {
    throw s3Fault(`cannot ${verb} ${key} in ${url}`, error)
  }
  /** Servers that are not Amazon's may take the last bytes of an object for the first ones. */
  let knowsSuffixes = true
  const store: ObjectStore = {
    url,

    async get(key, { offset = 0, length, signal } = {}) {
      if (length === 0) return Buffer.alloc(0)
      const last = length === undefined ? '' : offset + length - 1
      const range = offset === 0 && length === undefined ? {} : { Range: `bytes=${offset}-${last}` }
      try {
        const { Body } = await client.send(new aws.GetObjectCommand({ ...at(key), ...range }), within(signal))
        return Body ? Buffer.from(await Body.transformToByteArray()) : Buffer.alloc(0)
      } catch (error) {
        if (statusOf(error) === 416) return Buffer.alloc(0)
        signal?.throwIfAborted()
        return failed('read', key, error)
      }
    },

    async tail(key, length) {
      if (!knowsSuffixes) return tailInTwo(store, key, length)
      try {
        const { Body, ContentRange } = await client.send(
          new aws.GetObjectCommand({ ...at(key), Range: `bytes=-${length}` }),
        )
        const bytes = Body ? Buffer.from(await Body.transformToByteArray()) : Buffer.alloc(0)
        const range = rangeIn(ContentRange)
        if (range === undefined) return { bytes: bytes.subarray(-length), size: bytes.length }
        if (range.start + bytes.length === range.size) return { bytes, size: range.size }
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        if (statusOf(error) !== 416) return failed('read', key, error)
      }
      knowsSuffixes = false
      return tailInTwo(store, key, length)
    },

    async size(key) {
      try {
        return (await client.send(new aws.HeadObjectCommand(at(key)))).ContentLength ?? 0
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        return failed('look for', key, error)
      }
    },

    async put(key, body, { size, signal }) {
      const where = at(key)
      const bytes = await bytesOf(key, body, size)
      try {
        await client.send(new aws.PutObjectCommand({ ...where, Body: bytes, ContentLength: size }), within(signal))
      } catch (error) {
        signal?.throwIfAborted()
        failed('write', key, error)
      }
    },

    async delete(key) {
      try {
        await client.send(new aws.DeleteObjectCommand(at(key)))
      } catch (error) {
        if (statusOf(error) !== 404) failed('delete', key, error)
      }
    },

    // Not every server of this protocol keeps the order that Amazon's promises, so all of it is read first.
    async *list(start) {
      const found: { key: string; size: number; changedAt: number }[] = []
      let token: string | undefined
      do {
        const page = await client
          .send(new aws.ListObjectsV2Command({ Bucket: bucket, Prefix: prefix + start, ContinuationToken: token }))
          .catch((error) => failed('list', start === '' ? 'everything' : start, error))
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? [])
          found.push({ key: Key.slice(prefix.length), size: Size, changedAt: LastModified?.getTime() ?? 0 })
        token = page.NextContinuationToken
      } while (token)
      yield* found.sort((a, b) => (a.key < b.key ? -1 : 1))
    },
  }
  return store
}

function statusOf(error: unknown): number | undefined {
  return (error as Partial<S3ServiceException>).$metadata?.httpStatusCode
}

const codes: Record<string, FaultCode> = {
  NoSuchKey: 'not_found',
  NoSuchBucket: 'not_found',
  NotFound: 'not_found',
  AccessDenied: 'denied',
  CredentialsProviderError: 'denied',
  ExpiredToken: 'denied',
  InvalidAccessKeyId: 'denied',
  SignatureDoesNotMatch: 'denied',
  // Amazon's bucket is never full; what Ceph, MinIO and others say of theirs.
  QuotaExceeded: 'exhausted',
  XMinioAdminBucketQuotaExceeded: 'exhausted',
  XMinioStorageFull: 'exhausted',
  InsufficientStorage: 'exhausted',
  EntityTooLarge: 'exhausted',
}

const byStatus: Record<number, FaultCode> = {
  401: 'denied',
  403: 'denied',
  404: 'not_found',
  413: 'exhausted',
  507: 'exhausted',
}

function s3Fault(tried: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const name = error instanceof Error ? error.name : ''
  const status = statusOf(error)
  const code = codes[name] ?? byStatus[status ?? 0] ?? 'unavailable'
  const isTooLarge = name === 'EntityTooLarge' || status === 413
  return refusal(tried, error, { code, status, isTooLarge, said: said(error) })
}

/** What the server said, if it did say anything. */
function said(error: unknown): string | undefined {
  if (error instanceof Error && error.name === 'CredentialsProviderError') return 'no AWS credentials were found'
  const text = sentence(error)
  return text === 'UnknownError' || text === 'unknown error' ? undefined : text
}
