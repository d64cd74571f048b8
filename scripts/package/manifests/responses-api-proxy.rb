# A formula for Homebrew on macOS and Linux. scripts/release.sh fills in version and hashes.
class ResponsesApiProxy < Formula
  desc "Local credential proxy for the OpenAI Responses API"
  homepage "https://github.com/responses-api-proxy/responses-api-proxy"
  version "@VERSION@"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/responses-api-proxy/responses-api-proxy/releases/download/v@VERSION@/responses-api-proxy_@VERSION@_darwin_arm64.tar.gz"
      sha256 "@SHA256_darwin_arm64@"
    end
    on_intel do
      url "https://github.com/responses-api-proxy/responses-api-proxy/releases/download/v@VERSION@/responses-api-proxy_@VERSION@_darwin_amd64.tar.gz"
      sha256 "@SHA256_darwin_amd64@"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/responses-api-proxy/responses-api-proxy/releases/download/v@VERSION@/responses-api-proxy_@VERSION@_linux_arm64.tar.gz"
      sha256 "@SHA256_linux_arm64@"
    end
    on_intel do
      url "https://github.com/responses-api-proxy/responses-api-proxy/releases/download/v@VERSION@/responses-api-proxy_@VERSION@_linux_amd64.tar.gz"
      sha256 "@SHA256_linux_amd64@"
    end
  end

  def install
    bin.install "responses-api-proxy", "responses-api-proxy-verify"
    bin.install_symlink "responses-api-proxy" => "codex-responses-api-proxy"
    man1.install "responses-api-proxy.1"
    bash_completion.install "completions/responses-api-proxy.bash" => "responses-api-proxy"
    zsh_completion.install "completions/_responses-api-proxy"
    fish_completion.install "completions/responses-api-proxy.fish"
    doc.install "README.md", "CHANGELOG.md", "SECURITY.md", "THIRD-PARTY-LICENSES", "docs", "contrib"
  end

  def caveats
    <<~EOS
      Homebrew installs the program as your own file. So that no process of the user that runs it
      can attach to it as it starts, install it as root's, with mode 0711:
        sudo install -m 711 #{opt_bin}/responses-api-proxy /usr/local/sbin/
    EOS
  end

  test do
    assert_match "v#{version}", shell_output("#{bin}/responses-api-proxy --version")
  end
end
