import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { Fault } from '../model/fault.ts'

/** The few fields of OCI images that are needed to run one. They come from strangers: bounded, and parsed once. */

export const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/)

const Descriptor = z.object({ digest: Digest, size: z.int().nonnegative() })
const Index = z.object({ manifests: z.array(Descriptor).min(1).max(1000) })
const Manifest = z.object({ config: Descriptor, layers: z.array(Descriptor).max(1000) })

const Strings = z
  .array(z.string().max(65_536))
  .max(4096)
  .nullish()
  .transform((list) => list ?? [])
const Word = z
  .string()
  .max(4096)
  .nullish()
  .transform((text) => text ?? '')

const Config = z.object({
  architecture: z.string().max(100),
  os: z.string().max(100),
  config: z
    .object({ Entrypoint: Strings, Cmd: Strings, Env: Strings, WorkingDir: Word, User: Word, OnBuild: Strings })
    .nullish()
    .transform((config) => config ?? { Entrypoint: [], Cmd: [], Env: [], WorkingDir: '', User: '', OnBuild: [] }),
})

export const ImageFacts = z.object({
  /** Of its manifest: the same digest is the same image, whatever its name. */
  digest: Digest,
  architecture: z.string(),
  os: z.string(),
  entrypoint: z.array(z.string()),
  command: z.array(z.string()),
  env: z.array(z.string()),
  workingDirectory: z.string(),
  user: z.string(),
  /** Instructions of a Dockerfile for images that begin from it. */
  onBuild: z.array(z.string()).default([]),
  /** Manifest, config and layers as downloaded. */
  blobs: z.array(Descriptor),
})
export type ImageFacts = z.infer<typeof ImageFacts>

/** Reads what a freshly written OCI layout with one image in it holds. */
export async function readLayout(layout: string): Promise<ImageFacts> {
  const blob = (digest: string) => join(layout, 'blobs', 'sha256', digest.slice('sha256:'.length))
  const index = await parse(Index, join(layout, 'index.json'))
  const [main] = index.manifests
  if (main === undefined) throw new Fault('invalid', `the image in ${layout} has no manifest`)
  const manifest = await parse(Manifest, blob(main.digest))
  const { architecture, os, config } = await parse(Config, blob(manifest.config.digest))
  return {
    digest: main.digest,
    architecture,
    os,
    entrypoint: config.Entrypoint,
    command: config.Cmd,
    env: config.Env,
    workingDirectory: config.WorkingDir,
    user: config.User,
    onBuild: config.OnBuild,
    blobs: [main, manifest.config, ...manifest.layers].map(({ digest, size }) => ({ digest, size })),
  }
}

async function parse<T extends z.ZodType>(schema: T, path: string): Promise<z.infer<T>> {
  try {
    return schema.parse(JSON.parse(await readFile(path, 'utf8')))
  } catch (error) {
    throw new Fault('invalid', 'the image is not one that can be run: its manifest or config is malformed', {
      cause: error,
    })
  }
}
