export function openApiDocument(_options: { version: string }): Record<string, unknown> {
  return {}
}
