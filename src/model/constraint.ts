import { z } from 'zod'

/**
 * A condition on a node, written as one line: `os == macos`, `label.rack in [a, b]`, `attr.kernel version >=5.10`,
 * `label.features contains [gpu, nvme]`, `label.gpu exists`. `!=` and `not in` also hold where the subject is absent.
 */
export const constraintOperators = [
  '==',
  '!=',
  '<=',
  '>=',
  '<',
  '>',
  '=~',
  'in',
  'not in',
  'contains',
  'contains any',
  'version',
  'exists',
  'missing',
] as const
export type ConstraintOperator = (typeof constraintOperators)[number]

export const ParsedConstraint = z.strictObject({
  /** `os`, `arch`, `node`, `hostname`, `cores`, `memory`, `label.<name>`, `attr.<name>` or `driver.<name>`. */
  subject: z.string().min(1).max(200),
  operator: z.enum(constraintOperators),
  values: z.array(z.string().max(500)).max(100).default([]),
})
export type Constraint = z.infer<typeof ParsedConstraint>

export const Constraint = z.union([
  ParsedConstraint,
  z
    .string()
    .max(1000)
    .transform((text, context) => {
      const parsed = parseConstraint(text)
      if (typeof parsed !== 'string') return parsed
      context.addIssue({ code: 'custom', message: parsed })
      return z.NEVER
    }),
])

const plainSubjects = ['os', 'arch', 'node', 'hostname', 'cores', 'memory']
const prefixes = ['label.', 'attr.', 'driver.']

/** The constraint, or a sentence saying what is wrong with it. */
export function parseConstraint(text: string): Constraint | string {
  const match = /^\s*([\w.-]+)\s+(not\s+in|contains\s+any|==|!=|<=|>=|<|>|=~|[a-z]+|=)(?:\s+|(?=["'[\d])|$)(.*)$/s.exec(
    text.replace(/(==|!=|<=|>=|=~|(?<![=!<>])[<>](?!=))/, ' $1 '),
  )
  const example = 'write it like "os == macos", "label.rack in [a, b]" or "attr.kernel version >=5.10"'
  if (!match) return `"${text}" is not a constraint; ${example}`
  const [, subject = '', rawOperator = '', rest = ''] = match
  const operator = rawOperator.replace(/\s+/g, ' ') as ConstraintOperator
  if (rawOperator === '=') return `"=" is not an operator in "${text}"; write "==" to compare`
  if (!constraintOperators.includes(operator)) {
    return `"${operator}" is not an operator in "${text}"; the operators are ${constraintOperators.join(', ')}`
  }
  if (
    !plainSubjects.includes(subject) &&
    !prefixes.some((prefix) => subject.startsWith(prefix) && subject !== prefix)
  ) {
    return `"${subject}" is nothing a node has; use ${plainSubjects.join(', ')}, label.<name>, attr.<name> or driver.<name>`
  }
  const values = parseValues(rest.replace(/\s*(==|!=|<=|>=|=~|[<>])\s*/g, '$1'))
  if (operator === 'exists' || operator === 'missing') {
    return values.length === 0 ? { subject, operator, values } : `"${operator}" takes no value in "${text}"`
  }
  if (values.length === 0) return `"${text}" lacks a value after "${operator}"; ${example}`
  if (operator === '=~') {
    const broken = brokenPattern(values[0] ?? '')
    if (broken) return `"${values[0]}" is not a regular expression: ${broken}`
  }
  return { subject, operator, values }
}

/** `[a, "b c"]` or a single word or the rest of the line. */
function parseValues(text: string): string[] {
  const trimmed = text.trim()
  if (trimmed === '') return []
  const list = /^\[(.*)\]$/s.exec(trimmed)
  const parts = list ? (list[1] ?? '').split(',') : [trimmed]
  return parts.map((part) => part.trim().replace(/^(["'])(.*)\1$/s, '$2')).filter((part) => part !== '')
}

function brokenPattern(pattern: string): string | undefined {
  try {
    new RegExp(pattern)
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

export function formatConstraint({ subject, operator, values }: Constraint): string {
  if (values.length === 0) return `${subject} ${operator}`
  const list = operator.endsWith('in') || operator.startsWith('contains')
  return `${subject} ${operator} ${list ? `[${values.join(', ')}]` : values[0]}`
}
