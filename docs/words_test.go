package docs

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// standardWords are the packages whose comments are in standard technical English. Add a package once its comments are.
var standardWords = []string{
	"cmd/demo", "cmd/responses-api-proxy", "cmd/responses-api-proxy-verify",
	"docs", "e2e/clients", "e2e/codexaction", "e2e/escape", "e2e/kernels", "e2e/keyleak", "e2e/longrun", "e2e/systems",
	"internal/serve/apierror", "internal/lab/attack", "internal/serve/audit", "internal/serve/budget", "internal/cli", "internal/serve/dump",
	"internal/wire/http1", "internal/wire/jsonscan", "internal/key", "internal/lab/launch", "internal/host/linelog", "internal/host/listen",
	"internal/lab/memscan", "internal/serve/metrics", "internal/lab/openaitest", "internal/host/peer", "internal/serve/policy",
	"internal/lab/proctest", "internal/serve/relay", "internal/host/safefile", "internal/host/sandbox", "internal/key/secret",
	"internal/serve/server", "internal/host/systemd", "internal/key/tlsrecord", "internal/key/tokenexchange", "internal/key/upstream", "internal/serve/usage",
	"internal/serve/websocket",
}

// markers are expressions that standard technical English does without. A verb of speech or thought is not matched at
// the beginning of a comment, where it is an identifier, nor with a person as its subject.
var markers = map[string]*regexp.Regexp{
	"a verb of speech or thought with a thing as subject": regexp.MustCompile(`(?i)\b(?:tells?|told|says?|said|knows?|knew|wants?|asks?|believes?)\b`),
	"an indefinite person":                                regexp.MustCompile(`(?i)\b(?:nobody|somebody|whoever|whom|anybody|everybody)\b`),
	"a sentence that begins with a pronoun":               regexp.MustCompile(`(?:^|[.!?:] )(?:What|Who|Those that|Nobody)\b`),
	"a word for a directory":                              regexp.MustCompile(`(?i)\bfolders?\b`),
	"another word for reports":                            regexp.MustCompile(`(?i)\btells whether\b`),
}

// exempt matches the text before an expression that is no marker: the start of a comment, a person as subject, and, as
// "nobody" is also a user's name, the word user or a quotation mark.
var exempt = regexp.MustCompile(`(?i)(?:^|\b(?:we|you|users?|operators?|people|humans?)(?: \w+)? |\busers? |[="'])$`)

// TestWords checks that these packages have at most one marker in 1,000 words of comments, as the standard library has.
func TestWords(t *testing.T) {
	for _, pkg := range standardWords {
		words, found := commentMarkers(t, filepath.Join("..", pkg))
		if words == 0 {
			t.Errorf("%s has no comments", pkg)
		}
		if len(found)*1000 > words {
			t.Errorf("%s: %d markers in %d words of comments:\n%s", pkg, len(found), words, strings.Join(found, "\n"))
		}
	}
}

// commentMarkers returns the number of words in the comments of a directory's Go files, and each marker with its place.
func commentMarkers(t *testing.T, dir string) (words int, found []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, file := range files {
		f, err := parser.ParseFile(set, file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Comments {
			all := strings.Fields(c.Text())
			words += len(all)
			for _, m := range findMarkers(strings.Join(all, " ")) {
				found = append(found, set.Position(c.Pos()).String()+": "+m)
			}
		}
	}
	return words, found
}

func findMarkers(text string) (found []string) {
	for what, re := range markers {
		for _, at := range re.FindAllStringIndex(text, -1) {
			if what == "a sentence that begins with a pronoun" || !exempt.MatchString(text[:at[0]]) {
				found = append(found, what+": "+text[max(0, at[0]-30):min(len(text), at[1]+30)])
			}
		}
	}
	return found
}

// TestFindMarkers checks that TestWords can fail.
func TestFindMarkers(t *testing.T) {
	for text, want := range map[string]int{
		"Close releases the slot. The kernel knows the user nobody.":            1,
		"open says whether somebody listens.":                                   2,
		"What is there stays. Who asks is refused.":                             3,
		"f tells whether the folder is empty":                                   3,
		"Ask requests a token. The users want it, and an operator may say why.": 0,
	} {
		if got := findMarkers(text); len(got) != want {
			t.Errorf("%q: %q, want %d markers", text, got, want)
		}
	}
}
