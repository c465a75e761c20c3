{{- define "semipd.labels" -}}
{app.kubernetes.io/name: semipd, app.kubernetes.io/component: operator}
{{- end }}

{{- define "semipd.subjects" -}}
- {kind: ServiceAccount, name: semipd-operator, namespace: {{ .Release.Namespace }}}
{{- end }}

{{/* The rules of the first object of a file: what the operator may do is written once, for kustomize. */}}
{{- define "semipd.rules" -}}
{{- (first (splitList "\n---\n" .) | fromYaml).rules | toYaml }}
{{- end }}
