// Words of what all pages share, in the language that the page says it is in.

const ENGLISH = {
  copied: 'Copied',
  copy: 'Copy',
  copyCode: 'Copy code',
  code: (language) => (language ? `Code, ${language}` : 'Code'),
  table: 'Table',
  formula: 'Formula',
};

const CHINESE = {
  copied: '已复制',
  copy: '复制',
  copyCode: '复制代码',
  code: (language) => (language ? `代码，${language}` : '代码'),
  table: '表格',
  formula: '公式',
};

/** Return the words in the page's language as it is now. */
export const sharedWords = () => (document.documentElement.lang.startsWith('zh') ? CHINESE : ENGLISH);
