{{- define "tagfit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that a suffix and a pod's hash still fit in 63. */}}
{{- define "tagfit.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tagfit.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tagfit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Not selected by the Service. */}}
{{- define "tagfit.testLabels" -}}
app.kubernetes.io/name: {{ include "tagfit.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tagfit.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "tagfit.selectorLabels" . }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "tagfit.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "tagfit.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "tagfit.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* The container's half of the restricted Pod Security Standard. */}}
{{- define "tagfit.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tagfit.allowedHosts" -}}
{{- $service := include "tagfit.fullname" . }}
{{- $names := list $service }}
{{- range list .Release.Namespace "svc" "cluster" "local" }}
{{- $service = printf "%s.%s" $service . }}
{{- if ne . "cluster" }}
{{- $names = append $names $service }}
{{- end }}
{{- end }}
{{- if .Values.ingress.enabled }}
{{- $names = concat $names .Values.ingress.hosts }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- $names = concat $names .Values.httpRoute.hostnames }}
{{- end }}
{{- concat $names .Values.allowedHosts | uniq | join "," }}
{{- end }}
