{{- define "foghorn.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "foghorn.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "foghorn.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "foghorn.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "foghorn.selectorLabels" -}}
app.kubernetes.io/name: {{ include "foghorn.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "foghorn.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "foghorn.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* A value of an annotation may be empty to take the chart's own away. */}}
{{- define "foghorn.annotations" -}}
{{- $kept := dict }}
{{- range $name, $value := . }}
{{- if $value }}{{ $_ := set $kept $name (toString $value) }}{{ end }}
{{- end }}
{{- if $kept -}}
annotations:
  {{- toYaml $kept | nindent 2 }}
{{- end }}
{{- end }}

{{- define "foghorn.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "foghorn.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "foghorn.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The names of the Secrets that are the chart's own, or somebody else's; empty where there is none. */}}
{{- define "foghorn.tokensSecret" -}}
{{- if .Values.tokens.existingSecret }}
{{- .Values.tokens.existingSecret }}
{{- else if .Values.tokens.entries }}
{{- printf "%s-tokens" (include "foghorn.fullname" .) }}
{{- end }}
{{- end }}

{{- define "foghorn.databaseSecret" -}}
{{- if .Values.database.existingSecret }}
{{- .Values.database.existingSecret }}
{{- else if .Values.database.url }}
{{- printf "%s-database" (include "foghorn.fullname" .) }}
{{- end }}
{{- end }}

{{- define "foghorn.databaseSecretKey" -}}
{{- if .Values.database.existingSecret }}{{ .Values.database.existingSecretKey }}{{ else }}url{{ end }}
{{- end }}

{{/* "true" where the state folder is a volume that outlives the pod. */}}
{{- define "foghorn.persistent" -}}
{{- if kindIs "bool" .Values.persistence.enabled }}
{{- if .Values.persistence.enabled }}true{{ end }}
{{- else if not (include "foghorn.databaseSecret" .) }}true{{ end }}
{{- end }}

{{/* What no schema can say with its reason. */}}
{{- define "foghorn.check" -}}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount is %d: more than one hub is not possible yet, since sessions are not shared between hubs; leave it at 1" (int .Values.replicaCount)) }}
{{- end }}
{{- if and .Values.tokens.existingSecret .Values.tokens.entries }}
{{- fail "tokens.existingSecret and tokens.entries exclude each other" }}
{{- end }}
{{- if and .Values.database.existingSecret .Values.database.url }}
{{- fail "database.existingSecret and database.url exclude each other" }}
{{- end }}
{{- if and (eq .Values.auth "tokens") (not (include "foghorn.tokensSecret" .)) }}
{{- fail "auth is tokens, and there are none: set tokens.existingSecret or tokens.entries, or auth to kubernetes" }}
{{- end }}
{{- if and (eq .Values.auth "webhook") (not .Values.webhook.url) }}
{{- fail "auth is webhook, and webhook.url is not set" }}
{{- end }}
{{- if and (hasPrefix "http://" .Values.webhook.url) (not .Values.webhook.insecure) }}
{{- fail "webhook.url is not https, and people's tokens would go there unencrypted; webhook.insecure allows it" }}
{{- end }}
{{- if and .Values.rbac.create (not .Values.rbac.clusterWide) (not .Values.kubernetes.namespaces) }}
{{- fail "the hub has rights in no namespace: name those of your apps in kubernetes.namespaces, or set rbac.clusterWide" }}
{{- end }}
{{- if not (or (eq .Values.kubernetes.layout "deis") .Values.kubernetes.namespace (eq (len .Values.kubernetes.namespaces) 1)) }}
{{- fail "which namespace an app is in is not said: set kubernetes.namespace, to one or to a template such as \"{app}\"" }}
{{- end }}
{{- if has .Release.Namespace .Values.kubernetes.namespaces }}
{{- fail (printf "kubernetes.namespaces has %s, where the hub itself is: apps have to be elsewhere, since who may run a command there could read the hub's secrets" .Release.Namespace) }}
{{- end }}
{{- range .Values.kubernetes.namespaces }}
{{- if hasPrefix "kube-" . }}
{{- fail (printf "kubernetes.namespaces has %s: the cluster's own namespaces have no apps" .) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the gateway that it belongs to" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) }}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled" }}
{{- end }}
{{- end }}

{{/* The rights that the hub needs where apps are. tests/chart.rs holds that no other verb is here. */}}
{{- define "foghorn.rules" -}}
# create: a run's pod. delete: it goes when its session ends. get: what becomes of it while it starts, and how it ended.
# list, watch: the pods of an app, for its log and for exec; run pods that are left over.
- apiGroups: [""]
  resources: [pods]
  verbs: [create, delete, get, list, watch]
# get: the log of an app; the output of an attached container from before the attach.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# get, create: exec, and the way to a run's agent. It is a websocket, which begins with a GET: a cluster asks for the
# verb get, a newer one for create too.
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [create, get]
# get, create: runs without an agent, and pods that a controller hands over. As above.
- apiGroups: [""]
  resources: [pods/attach]
  verbs: [create, get]
# list, watch: why a pod does not start (image, quota, no room), and what an app's log says of its pods.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
# list: that a run's pod gets no Service's traffic.
- apiGroups: [""]
  resources: [services]
  verbs: [list]
# get, list: what a run's pod is made from; which apps there are.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list]
{{- end }}

{{/* A value of TOML, in one line. */}}
{{- define "foghorn.tomlValue" -}}
{{- if kindIs "string" . }}
{{- toJson . }}
{{- else if kindIs "bool" . }}
{{- . }}
{{- else if kindIs "slice" . }}
{{- $parts := list }}
{{- range . }}{{ $parts = append $parts (include "foghorn.tomlValue" .) }}{{ end }}
{{- printf "[%s]" (join ", " $parts) }}
{{- else if kindIs "map" . }}
{{- $parts := list }}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $parts = append $parts (printf "%s = %s" (toJson $key) (include "foghorn.tomlValue" $value)) }}
{{- end }}
{{- end }}
{{- printf "{%s}" (join ", " $parts) }}
{{- else if eq (float64 .) (float64 (int64 .)) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* Lines of a table: what is neither null nor empty. */}}
{{- define "foghorn.tomlTable" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "foghorn.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "foghorn.config" -}}
{{- $kubernetes := dict "namespaces" .Values.kubernetes.namespaces "layout" .Values.kubernetes.layout "runner" .Values.kubernetes.runner }}
{{- if eq .Values.kubernetes.runner "agent" }}
{{- $_ := set $kubernetes "image" (default (include "foghorn.image" .) .Values.kubernetes.image) }}
{{- $_ := set $kubernetes "image_pull_policy" (default .Values.image.pullPolicy .Values.kubernetes.imagePullPolicy) }}
{{- end }}
{{- $names := dict "namespace" "namespace" "selector" "selector" "processLabel" "process_label" "process" "process" "imagePullSecrets" "image_pull_secrets" "keepLabels" "keep_labels" "patch" "patch" "maxCpu" "max_cpu" "maxMemory" "max_memory" "logUpstreams" "log_upstreams" "podWait" "pod_wait" }}
{{- if and (eq .Values.kubernetes.layout "instance") (eq (len .Values.kubernetes.namespaces) 1) }}
{{- $_ := set $kubernetes "namespace" (first .Values.kubernetes.namespaces) }}
{{- end }}
{{- range $value, $key := $names }}
{{- with index $.Values.kubernetes $value }}{{ $_ := set $kubernetes $key . }}{{ end }}
{{- end }}
{{- $config := dict "listen" "0.0.0.0:7300" "backend" "kubernetes" "auth" .Values.auth "rights" .Values.rights "watch" .Values.watch "log" .Values.log "kubernetes" $kubernetes }}
{{- if .Values.metrics.enabled }}{{ $_ := set $config "metrics_listen" "0.0.0.0:7301" }}{{ end }}
{{- with .Values.origins }}{{ $_ := set $config "origins" . }}{{ end }}
{{- if eq .Values.auth "webhook" }}
{{- $webhook := dict "url" .Values.webhook.url }}
{{- with .Values.webhook.timeout }}{{ $_ := set $webhook "timeout" . }}{{ end }}
{{- if .Values.webhook.insecure }}{{ $_ := set $webhook "insecure" true }}{{ end }}
{{- if .Values.webhook.existingSecret }}
{{- if .Values.webhook.caKey }}{{ $_ := set $webhook "ca_file" (printf "/run/foghorn/webhook/%s" .Values.webhook.caKey) }}{{ end }}
{{- if .Values.webhook.tokenKey }}{{ $_ := set $webhook "token_file" (printf "/run/foghorn/webhook/%s" .Values.webhook.tokenKey) }}{{ end }}
{{- end }}
{{- $_ := set $config "webhook" $webhook }}
{{- end }}
{{- $limits := deepCopy .Values.limits }}
{{- if .Values.drainSeconds }}{{ $_ := set $limits "drain" (printf "%ds" (int .Values.drainSeconds)) }}{{ end }}
{{- with $limits }}{{ $_ := set $config "limits" . }}{{ end }}
{{- with .Values.apps }}{{ $_ := set $config "apps" (deepCopy .) }}{{ end }}
{{- $config = mergeOverwrite $config (deepCopy .Values.extraConfig) }}
{{- range $key, $value := $config }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "foghorn.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $config }}
{{- if and (kindIs "map" $value) (ne $key "apps") }}

[{{ $key }}]
{{- include "foghorn.tomlTable" $value }}
{{- end }}
{{- end }}
{{- range $app, $value := $config.apps }}

[apps.{{ toJson $app }}]
{{- include "foghorn.tomlTable" $value }}
{{- end }}
{{- end }}
