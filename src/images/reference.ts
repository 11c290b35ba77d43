import { Fault } from '../model/fault.ts'

/** Where an image is: people write "alpine" and mean docker.io/library/alpine:latest. */
export interface Reference {
  /** Registry host, with its port when it has one. */
  registry: string
  repository: string
  tag: string
  /** Set when the reference names one immutable image; the tag then says nothing. */
  digest: string | undefined
}

const component = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/
const host = /^(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::\d{1,5})?$/

/** Reads a reference by the rules of the distribution project (https://github.com/distribution/reference). */
export function parseReference(text: string): Reference {
  const wrong = (why: string) => new Fault('invalid', `"${text}" is not an image reference: ${why}`)
  const [named = '', digest, ...more] = text.split('@')
  if (more.length > 0 || (digest !== undefined && !/^sha256:[0-9a-f]{64}$/.test(digest)))
    throw wrong('after "@" comes "sha256:" and 64 hex digits')
  const slash = named.lastIndexOf('/')
  const colon = named.indexOf(':', slash + 1)
  const name = colon < 0 ? named : named.slice(0, colon)
  const tag = colon < 0 ? 'latest' : named.slice(colon + 1)
  if (!/^\w[\w.-]{0,127}$/.test(tag)) throw wrong(`"${tag}" is not a tag`)
  const parts = name.split('/')
  const first = parts[0] ?? ''
  const hasHost = parts.length > 1 && (/[.:]/.test(first) || first === 'localhost')
  const registry = hasHost ? first : 'docker.io'
  const path = hasHost ? parts.slice(1) : parts.length === 1 ? ['library', ...parts] : parts
  if (!host.test(registry)) throw wrong(`"${registry}" is not a host name`)
  for (const part of path) {
    if (!component.test(part))
      throw wrong(part === '' ? 'a part of its name is empty' : `"${part}" may not stand in a name; it is lower case`)
  }
  return { registry, repository: path.join('/'), tag, digest }
}

/** The one spelling that two ways of writing the same reference share. */
export function formatReference({ registry, repository, tag, digest }: Reference): string {
  return `${registry}/${repository}${digest === undefined ? `:${tag}` : `@${digest}`}`
}

/** Plain HTTP is only for a registry on this very machine. */
export function isLoopback({ registry }: Reference): boolean {
  const name = registry.replace(/:\d+$/, '')
  return name === 'localhost' || name === '[::1]' || /^127(\.\d{1,3}){3}$/.test(name)
}
