# Starts the agent of a workspace: fetches it from the server, makes sure that it is what it should be, and runs it.
# Templates put this text into quotes, so no single ones may stand in it.
#
# Understood: BINARY_SHA256 (what it must be), BOOTSTRAP_ATTEMPTS, BOOTSTRAP_PAUSE_SECONDS, BOOTSTRAP_LINGER_SECONDS.
$ErrorActionPreference = "Stop"
$ProgressPreference = "SilentlyContinue"
$url = "${ACCESS_URL}bin/coder-windows-${ARCH}.exe"
$binary = "$env:TEMP\sshd.exe"
$attempts = if ($env:BOOTSTRAP_ATTEMPTS) { [int]$env:BOOTSTRAP_ATTEMPTS } else { 120 }
$pause = if ($env:BOOTSTRAP_PAUSE_SECONDS) { [int]$env:BOOTSTRAP_PAUSE_SECONDS } else { 15 }
$linger = if ($env:BOOTSTRAP_LINGER_SECONDS) { [int]$env:BOOTSTRAP_LINGER_SECONDS } else { 86400 }

function Stop-Bootstrap([string]$stage, [int]$status, [string]$why) {
    $report = @{ stage = $stage; status = $status; url = $url; message = $why } | ConvertTo-Json -Compress
    [Console]::Error.WriteLine("agent-bootstrap-error: $report")
    if ($linger -gt 0) {
        [Console]::Error.WriteLine("The agent did not start (status $status). This script waits for $linger seconds.")
        Start-Sleep -Seconds $linger
    }
    exit $status
}

# Why the file is not the agent; nothing if it is.
function Get-Fault([string]$path) {
    $bytes = [System.IO.File]::ReadAllBytes($path)
    if ($bytes.Length -lt 2) { return "the server sent nothing" }
    if ($bytes[0] -ne 0x4d -or $bytes[1] -ne 0x5a) {
        $text = [System.Text.Encoding]::UTF8.GetString($bytes, 0, [Math]::Min(2000, $bytes.Length))
        $text = ($text -replace "<[^>]*>", " ") -replace "\s+", " "
        $text = $text.Substring(0, [Math]::Min(200, $text.Length))
        return "this is no program, but perhaps a login page or an error of a proxy: $text"
    }
    if ($env:BINARY_SHA256) {
        $found = (Get-FileHash -Algorithm SHA256 -Path $path).Hash.ToLowerInvariant()
        if ($found -ne $env:BINARY_SHA256.ToLowerInvariant()) {
            return "the checksum is $found, and should be $env:BINARY_SHA256"
        }
    }
}

# Old versions of Windows begin without it.
[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
$why = ""
for ($attempt = 1; ; $attempt++) {
    try {
        $part = "$binary.part"
        Invoke-WebRequest -Uri $url -OutFile $part -UseBasicParsing -TimeoutSec 1800
        $why = Get-Fault $part
        if (-not $why) {
            Move-Item -Force -Path $part -Destination $binary
            break
        }
    } catch {
        $why = $_.Exception.Message
    }
    [Console]::Error.WriteLine($why)
    if ($attempt -ge $attempts) { Stop-Bootstrap "download" 1 $why }
    # Many machines that start at once should not come again at once.
    $wait = $pause + (Get-Random -Minimum 0 -Maximum ($pause + 1))
    [Console]::Error.WriteLine("Trying again in $wait seconds ($attempt of $attempts).")
    Start-Sleep -Seconds $wait
}

# Without it the first start takes long; where it is not allowed, it only does.
try { Add-MpPreference -ExclusionPath $binary -ErrorAction Stop } catch { }

$env:CODER_AGENT_AUTH = "${AUTH_TYPE}"
$env:CODER_AGENT_URL = "${ACCESS_URL}"
$line = & $binary --version 2>&1 | Select-Object -First 1
if ("$line" -notmatch "Coder") { Stop-Bootstrap "version" 2 "the program does not know what it is: $line" }

# A container ends with its first process.
if ((Get-CimInstance -ClassName Win32_Service -Filter "Name=""cexecsvc""" -ErrorAction SilentlyContinue)) {
    & $binary agent
    exit $LASTEXITCODE
}
Start-Process -FilePath $binary -ArgumentList "agent" -PassThru | Out-Null
