/**
 * The name of an object store for machines that ask each other whether they share it: its URL without what is said of
 * how to get in.
 */
export function storeName(text: string): string {
  const url = new URL(text)
  const endpoint = url.searchParams.get('endpoint')
  const path = url.pathname.replace(/\/+$/, '')
  const place = url.protocol === 'file:' ? `file:${path}` : `${url.protocol}//${url.hostname}${path}`
  return `${place}${endpoint === null ? '' : `?endpoint=${withoutUser(endpoint)}`}`
}

function withoutUser(endpoint: string): string {
  const url = new URL(endpoint)
  return `${url.protocol}//${url.host}${url.pathname.replace(/\/+$/, '')}`
}
