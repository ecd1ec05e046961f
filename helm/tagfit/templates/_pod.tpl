{{/* The container that serves, the same in every mode. */}}
{{- define "tagfit.container" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
name: tagfit
image: {{ include "tagfit.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if $sidecar }}
restartPolicy: Always
{{- end }}
env:
  - name: TAGFIT_ALLOWED_HOSTS
    value: {{ include "tagfit.allowedHosts" . | quote }}
  {{- with .Values.allowedOrigins }}
  - name: TAGFIT_ALLOWED_ORIGINS
    value: {{ join "," . | quote }}
  {{- end }}
  - name: TAGFIT_LOG_LEVEL
    value: {{ .Values.logLevel }}
  - name: TAGFIT_SHUTDOWN_TIMEOUT
    value: {{ .Values.shutdownTimeout | quote }}
  # void: the NVIDIA runtime adds nothing. The devices of a claim come by CDI.
  - name: NVIDIA_VISIBLE_DEVICES
    value: {{ ternary .Values.gpu.visibleDevices "void" (eq (include "tagfit.gpuAccess" .) "runtime") | quote }}
  {{- if eq .Values.mode "node" }}
  - name: NODE_IP
    valueFrom:
      fieldRef:
        fieldPath: status.hostIP
  {{- end }}
  {{- if $sidecar }}
  - name: OLLAMA_HOST
    value: 127.0.0.1:11434
  - name: OLLAMA_MODELS
    value: /ollama/models
  # Its own limit says nothing about Ollama's; without a limit this is what the node can give.
  - name: TAGFIT_OLLAMA_MEMORY_LIMIT
    valueFrom:
      resourceFieldRef:
        containerName: ollama
        resource: limits.memory
  {{- else if .Values.ollama.host }}
  - name: OLLAMA_HOST
    value: {{ .Values.ollama.host | quote }}
  {{- end }}
  {{- range $name, $value := .Values.ollama.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - name: http
    containerPort: 11435
{{- if not $sidecar }}
startupProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 30
{{- end }}
livenessProbe:
  httpGet:
    path: /livez
    port: http
  {{- if $sidecar }}
  # In place of a startup probe, which Ollama's container would wait for.
  initialDelaySeconds: 20
  {{- end }}
  periodSeconds: 10
  timeoutSeconds: 3
# Ready without Ollama: advice works while the daemon does not.
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 5
  timeoutSeconds: 3
lifecycle:
  preStop:
    # Until the endpoint is gone from every node.
    sleep:
      seconds: 5
resources:
  {{- if .Values.resources }}
  {{- toYaml .Values.resources | nindent 2 }}
  {{- else }}
  requests:
    cpu: 50m
    memory: 128Mi
  {{- if ne .Values.mode "node" }}
  limits:
    memory: 256Mi
  {{- end }}
  {{- end }}
  {{- if eq (include "tagfit.gpuAccess" .) "claim" }}
  claims:
    - name: gpu
  {{- end }}
securityContext:
  {{- include "tagfit.containerSecurityContext" . | nindent 2 }}
{{- if $sidecar }}
volumeMounts:
  - name: ollama
    mountPath: /ollama
    readOnly: true
{{- end }}
{{- end }}

{{/* How a probing container reaches NVIDIA GPUs: claim, runtime or not at all. */}}
{{- define "tagfit.gpuAccess" -}}
{{- if eq .Values.mode "standalone" -}}
{{- else if .Values.gpu.resourceClaimTemplateName -}}
{{- if semverCompare "<1.34-0" .Capabilities.KubeVersion.Version -}}
{{- fail "gpu.resourceClaimTemplateName needs Kubernetes 1.34 (resource.k8s.io/v1)" -}}
{{- end -}}
claim
{{- else if .Values.gpu.enabled -}}
runtime
{{- end -}}
{{- end }}

{{/* Ollama as an unprivileged user: HOME is where it writes its key, OLLAMA_MODELS its models. */}}
{{- define "tagfit.ollamaContainer" -}}
name: ollama
image: {{ .Values.ollama.image.repository }}:{{ .Values.ollama.image.tag }}
imagePullPolicy: {{ .Values.ollama.image.pullPolicy }}
env:
  - name: HOME
    value: /ollama
  - name: OLLAMA_MODELS
    value: /ollama/models
  - name: OLLAMA_HOST
    value: 0.0.0.0:11434
  {{- range $name, $value := .Values.ollama.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
ports:
  - name: ollama
    containerPort: 11434
startupProbe:
  httpGet:
    path: /
    port: ollama
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /
    port: ollama
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml .Values.ollama.resources | nindent 2 }}
  {{- if eq (include "tagfit.gpuAccess" .) "claim" }}
  claims:
    - name: gpu
  {{- end }}
securityContext:
  {{- include "tagfit.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - name: ollama
    mountPath: /ollama
  - name: tmp
    mountPath: /tmp
{{- end }}

{{/* Which nodes, for the test as well: in mode node a caller reaches its own node's pod only. */}}
{{- define "tagfit.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tagfit.podTemplate" -}}
metadata:
  labels:
    {{- include "tagfit.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: tagfit
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tagfit.serviceAccountName" . }}
  automountServiceAccountToken: false
  # A Service named tagfit would set TAGFIT_PORT=tcp://…, and strict settings refuse to start.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdownTimeout 20 }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- $gpuAccess := include "tagfit.gpuAccess" . }}
  {{- if and (eq $gpuAccess "runtime") .Values.gpu.runtimeClassName }}
  runtimeClassName: {{ .Values.gpu.runtimeClassName }}
  {{- else if eq $gpuAccess "claim" }}
  resourceClaims:
    - name: gpu
      resourceClaimTemplateName: {{ .Values.gpu.resourceClaimTemplateName }}
  {{- end }}
  {{- if eq .Values.mode "sidecar" }}
  initContainers:
    - {{ include "tagfit.container" . | nindent 6 | trim }}
  containers:
    - {{ include "tagfit.ollamaContainer" . | nindent 6 | trim }}
  volumes:
    - name: ollama
      {{- .Values.ollama.volume | default (dict "emptyDir" dict) | toYaml | nindent 6 }}
    - name: tmp
      emptyDir: {}
  {{- else }}
  containers:
    - {{ include "tagfit.container" . | nindent 6 | trim }}
  {{- end }}
  {{- with include "tagfit.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.mode "standalone" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tagfit.selectorLabels" . | nindent 10 }}
  {{- end }}
{{- end }}
