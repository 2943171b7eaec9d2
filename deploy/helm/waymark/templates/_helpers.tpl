{{- define "waymark.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "waymark" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-waymark" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "waymark.controller" -}}{{ include "waymark.fullname" . }}-controller{{- end -}}
{{- define "waymark.agent" -}}{{ include "waymark.fullname" . }}-agent{{- end -}}

{{- define "waymark.controller.account" -}}
{{- if .Values.controller.serviceAccount.create -}}
{{- .Values.controller.serviceAccount.name | default (include "waymark.controller" .) -}}
{{- else -}}
{{- required "controller.serviceAccount.name is needed if it is not to be created" .Values.controller.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "waymark.agent.account" -}}
{{- if .Values.agent.serviceAccount.create -}}
{{- .Values.agent.serviceAccount.name | default (include "waymark.agent" .) -}}
{{- else -}}
{{- required "agent.serviceAccount.name is needed if it is not to be created" .Values.agent.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "waymark.tag" -}}{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}

{{/* What does not change over the life of a release. */}}
{{- define "waymark.selector" -}}
app.kubernetes.io/name: waymark
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "waymark.labels" -}}
{{ include "waymark.selector" . }}
app.kubernetes.io/version: {{ include "waymark.tag" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
