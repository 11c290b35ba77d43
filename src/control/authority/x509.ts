import type * as X509 from '@peculiar/x509'

/**
 * The certificate library, loaded at first use: it costs a tenth of a second, which no command that never touches a
 * certificate should pay. It throws at import unless reflect-metadata came first.
 */
export async function loadX509(): Promise<typeof X509> {
  await import('reflect-metadata')
  return await import('@peculiar/x509')
}
