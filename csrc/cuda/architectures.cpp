// The list of architectures of a build, read and put into words.
#include "cuda/architectures.h"

#include <sstream>
#include <vector>

namespace fastconv::cuda {
namespace {

struct Code {
    int capability = 0;
    std::string letter;
    bool ptx = false;
};

std::vector<Code> codes_of(const std::string& built) {
    std::vector<Code> codes;
    std::istringstream words(built);
    for (std::string word; words >> word;) {
        Code code;
        std::size_t digits = 0;
        while (digits < word.size() && word[digits] >= '0' && word[digits] <= '9')
            code.capability = code.capability * 10 + (word[digits++] - '0');
        if (digits < word.size() && word[digits] != '-') code.letter = word.substr(digits, 1);
        code.ptx = word.find("-virtual") != std::string::npos;
        codes.push_back(code);
    }
    return codes;
}

std::string dotted(int capability) {
    return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::string list_of(const std::vector<Code>& codes, bool ptx) {
    std::vector<std::string> names;
    for (const Code& code : codes)
        if (code.ptx == ptx) names.push_back(dotted(code.capability) + code.letter);
    std::string text;
    for (std::size_t i = 0; i < names.size(); ++i)
        text += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
    return text;
}

}  // namespace

bool fits(int capability, const std::string& built) {
    for (const Code& code : codes_of(built)) {
        const bool major = code.capability / 10 == capability / 10;
        if (!code.letter.empty() ? code.capability == capability
            : code.ptx           ? code.capability <= capability
                                 : major && code.capability <= capability)
            return true;
    }
    return false;
}

std::string unfit_sentence(int index, const std::string& name, int capability,
                           const std::string& built) {
    const std::vector<Code> codes = codes_of(built);
    const std::string machine = list_of(codes, false), ptx = list_of(codes, true);
    std::string text = "GPU " + std::to_string(index) + " (" + name +
                       ") has compute capability " + dotted(capability) + ", but this build has ";
    if (!machine.empty()) text += "machine code for " + machine;
    if (!machine.empty() && !ptx.empty()) text += " and ";
    if (!ptx.empty()) text += "PTX for " + ptx;
    return text + "; build fastconv with FASTCONV_CUDA_ARCHS=" + std::to_string(capability);
}

}  // namespace fastconv::cuda
